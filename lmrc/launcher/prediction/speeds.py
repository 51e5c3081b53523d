"""Speeds of known GPUs, from published measurements; figures that nobody has measured are marked as assumed.

- MFU of LoRA on an H100, 40.6 %: NeMo Automodel, docs/performance-summary.mdx (Llama-3-8B, 12,473 tokens/s, packed to
  4,096).
- MFU of LoRA on an A100, 59.5 %: LLM Foundry, scripts/train/benchmarking/README.md (13B, 1,024 tokens, 8 GPUs). That is
  full training; LoRA was not found.
- MFU of an encoder, 40.4 % on an H100 and 45.1 % on an A100: the same table (760M, 512 tokens, 8 GPUs). These are
  decoders.
- Assumed: other GPUs as the H100; evaluations and inferences at the MFU of training; 10 us of the host per operation (6
  to 10 is usual), whose number was counted for RoBERTa-large (benchmarks/cadence.py); 60 % of the memory's bandwidth to
  read weights for each generated token; 60 s to start, 1 GB/s to load the model and to write weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from lmrc.usage.gpus import Gpu

ENCODER_MFU = {"h100": 0.404, "a100": 0.451}
LORA_MFU = {"h100": 0.406, "a100": 0.595}
# Operations per layer and pass.
FORWARD_LAUNCHES, BACKWARD_LAUNCHES = 1333 / 24, 2197 / 24
LAUNCH_SECONDS = 10e-6
BANDWIDTH_SHARE = 0.6
START_SECONDS = 60.0
DISK = 1e9


@dataclass(frozen=True)
class Speed:
    """Work of a process per second.

    Attributes:
        training: model FLOPs per second of training steps.
        forward: model FLOPs per second of evaluations and inferences.
        launch: seconds of the host per operation; 0 if the other figures include it.
        weights: bytes of weights read per second to generate tokens; 0 if `forward` includes it.
        start: seconds until the first step or document, without loading the model.
        load: bytes of the model loaded per second; 0 if `start` includes it.
        save: seconds per checkpoint; None computes it from the bytes.
        keep: seconds to write new best weights; None computes it from the bytes.
    """

    training: float
    forward: float
    launch: float = 0.0
    weights: float = 0.0
    start: float = 0.0
    load: float = 0.0
    save: float | None = None
    keep: float | None = None
    source: str = ""


def table_speed(gpu: Gpu, is_encoder: bool) -> Speed:
    """Return the speed of a known GPU by the table above."""
    known = ENCODER_MFU if is_encoder else LORA_MFU
    name = gpu.name.split()[0]
    share = known.get(name, known["h100"])
    measured = "" if name in known else ", assumed as on an H100"
    return Speed(
        training=share * gpu.flops,
        forward=share * gpu.flops,
        launch=LAUNCH_SECONDS,
        weights=BANDWIDTH_SHARE * gpu.bandwidth,
        start=START_SECONDS,
        load=DISK,
        source=f"{gpu.name.upper()} at {100 * share:.1f} % MFU{measured}",
    )
