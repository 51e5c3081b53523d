"""Compute the share of an RCP training on one GPU that goes to evaluations, the best weights and checkpoints.

Nothing is measured: the program prints its figures with their sources and computes the share from them. Sizes, batches
and the rule for checkpoints come from the code and the config.

    python benchmarks/cadence.py [--config configs/rcp/redocred.yaml] [--launch-us 10] [--copy-gbs 3] [--write-gbs 1]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import yaml

from lmrc.config.schema import RcpConfig
from lmrc.launcher.gpu_memory import FP32, estimate_memory
from lmrc.rcp.task import GPU_EVALUATION_FACTOR
from lmrc.training.trainer import EPOCH_END_SHARE, total_steps

# Documents of train and dev (Yao et al. 2019, table 2; Tan et al. 2022, table 2).
CORPORA = {"docred": (3053, 998), "redocred": (3053, 500)}
# Operations that reach the GPU, counted for RoBERTa-large, 4 documents in 5 windows, autocast. A larger batch needs few
# more.
FORWARD_LAUNCHES, BACKWARD_LAUNCHES = 1333, 2197
# Word pieces per document with mention markers: about 4 documents in 5 windows of at most 512.
TOKENS = 350
# Dense bf16 FLOP/s of an H100 SXM (data sheet: 989e12) at 40 % utilization.
FLOPS = 0.4 * 989e12
# Bandwidth from a GPU to pinned memory: PCIe 5.0 x16 has 64 GB/s.
PINNED_GBS = 50.0


@dataclass(frozen=True)
class Figures:
    """Figures that no test here can measure.

    Attributes:
        launch: seconds of the host per operation on the GPU.
        copy: bytes per second from the GPU into new pageable memory.
        write: bytes per second to the disk, with fsync.
    """

    launch: float
    copy: float
    write: float


FIGURES = Figures(launch=10e-6, copy=3e9, write=1e9)


@dataclass(frozen=True)
class Cadence:
    """When a training evaluates and saves.

    Attributes:
        batch: documents per evaluation batch.
        improved: share of the evaluations that keep new weights.
        copies: copies of a tensor that is saved.
        epoch_end: share of `checkpoint_minutes` after which an epoch ends with a checkpoint.
    """

    name: str
    eval_every: int
    batch: int
    improved: float
    copies: int
    epoch_end: float


@dataclass(frozen=True)
class Shares:
    """Seconds of a whole training, by what they go to."""

    steps: float
    evaluations: float
    best: float
    checkpoints: float
    saved: int

    @property
    def overhead(self) -> float:
        """The share of the training that is not steps."""
        rest = self.evaluations + self.best + self.checkpoints
        return rest / (rest + self.steps)


def cadences_of(micro: int) -> tuple[Cadence, ...]:
    """Return the cadences to compare, for a micro-batch size."""
    batch = micro * GPU_EVALUATION_FACTOR
    return (
        Cadence("200 steps, as it was", 200, micro, 1 / 3, 2, 0.0),
        Cadence("200 steps", 200, batch, 1 / 3, 1, EPOCH_END_SHARE),
        Cadence("each epoch", 0, batch, 2 / 3, 1, EPOCH_END_SHARE),
        Cadence("each epoch, always better", 0, batch, 1.0, 1, EPOCH_END_SHARE),
    )


def forward_seconds(documents: int, parameters: int, figures: Figures) -> float:
    """Return the seconds of a forward pass: those of the host or of the GPU, whichever are more."""
    return max(FORWARD_LAUNCHES * figures.launch, 2 * parameters * TOKENS * documents / FLOPS)


def shares(config: RcpConfig, corpus: str, cadence: Cadence, figures: Figures) -> Shares:
    """Go through the training and add up its seconds."""
    train, dev = CORPORA[corpus]
    options = config.train
    parameters = estimate_memory(config, 1).trained_parameters
    weights = parameters * FP32
    host = (FORWARD_LAUNCHES + BACKWARD_LAUNCHES) * figures.launch
    step = max(host, 6 * parameters * TOKENS * options.examples_per_step / FLOPS)
    evaluation = -(-dev // cadence.batch) * forward_seconds(cadence.batch, parameters, figures)
    best = cadence.improved * weights * (cadence.copies / figures.copy + 1 / figures.write)
    # The files are written while the training goes on.
    checkpoint = 3 * weights * cadence.copies / figures.copy
    total = total_steps(train, options)
    per_epoch = total // options.epochs
    clock = saved_at = 0.0
    saved = evaluations = 0
    for number in range(1, total + 1):
        clock += step
        is_epoch_end = number % per_epoch == 0 or number == total
        wait = 60 * options.checkpoint_minutes * (cadence.epoch_end if is_epoch_end else 1.0)
        if number == total or clock - saved_at > wait:
            clock += checkpoint
            saved, saved_at = saved + 1, clock
        if is_epoch_end or (cadence.eval_every and number % cadence.eval_every == 0):
            evaluations += 1
            clock += evaluation + best
    return Shares(total * step, evaluations * evaluation, evaluations * best, saved * checkpoint, saved)


def main() -> int:
    """Print the figures and the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/rcp/redocred.yaml"))
    parser.add_argument(
        "--launch-us", type=float, default=1e6 * FIGURES.launch, help="microseconds of the host per operation"
    )
    parser.add_argument(
        "--copy-gbs", type=float, default=FIGURES.copy / 1e9, help="GB/s from the GPU into new pageable memory"
    )
    parser.add_argument("--write-gbs", type=float, default=FIGURES.write / 1e9, help="GB/s to the disk with fsync")
    options = parser.parse_args()
    config = RcpConfig.model_validate(yaml.safe_load(options.config.read_text()))
    figures = Figures(options.launch_us / 1e6, options.copy_gbs * 1e9, options.write_gbs * 1e9)
    micro = config.train.micro_batch_size
    batch = micro * GPU_EVALUATION_FACTOR
    cadences = cadences_of(micro)
    parameters = estimate_memory(config, 1).trained_parameters
    size, documents = parameters * FP32 / 1e9, config.train.examples_per_step
    host = (FORWARD_LAUNCHES + BACKWARD_LAUNCHES) * figures.launch
    gpu = 6 * parameters * TOKENS * documents / FLOPS
    passes = [f"{1000 * forward_seconds(each, parameters, figures):.1f} ms of {each}" for each in (micro, batch)]
    rows = {
        "trained parameters": f"{parameters:,}: {size:.2f} GB, with Adam's moments {3 * size:.2f} GB (counted)",
        "operations": f"{FORWARD_LAUNCHES} forward, {BACKWARD_LAUNCHES} backward (counted), {options.launch_us:g} us "
        "of the host each (assumed; 6 to 10 is usual)",
        f"step of {documents} documents": f"{1000 * host:.1f} ms of the host, {1000 * gpu:.1f} ms of the GPU (40 % of "
        "an H100's 989 TFLOP/s); the larger counts",
        "evaluation": f"forward passes: {', '.join(passes)} documents",
        "copy from the GPU": f"{options.copy_gbs:g} GB/s (assumed: pageable memory, whose pages are new)",
        "write": f"{options.write_gbs:g} GB/s (assumed: NFS over 10 Gbit/s)",
        "new best weights": "after a third of the evaluations every 200 steps, two thirds of those each epoch "
        "(assumed; 9 of the first 10 epochs in benchmarks/study/results/earlier/rcp.metrics.jsonl)",
    }
    for name, text in rows.items():
        print(f"{name:<22}{text}")
    print()
    print(f"{'corpus':<10}{'evaluation':<28}{'steps':>8}{'evaluate':>10}{'best':>8}{'checkpoints':>16}{'share':>9}")
    for corpus in CORPORA:
        for cadence in cadences:
            found = shares(config, corpus, cadence, figures)
            saves = f"{found.checkpoints:.0f} s ({found.saved})"
            print(
                f"{corpus:<10}{cadence.name:<28}{found.steps:>6.0f} s{found.evaluations:>8.0f} s{found.best:>6.0f} s"
                f"{saves:>16}{100 * found.overhead:>7.1f} %"
            )
    # With pinned staging a checkpoint would be copied at the bandwidth of the bus.
    last = shares(config, "redocred", cadences[2], figures)
    gain = last.checkpoints * (1 - options.copy_gbs / PINNED_GBS) / (last.steps / (1 - last.overhead))
    print(f"\npinned memory ({PINNED_GBS:g} GB/s) would save {100 * gain:.1f} % on redocred, each epoch")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
