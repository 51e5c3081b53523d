"""Check of RC training in the shape of LLaMA2-13B: time, utilization, memory, and a loss that falls."""

from __future__ import annotations

import torch
from gpu.check import Machine, require
from gpu.models import RcTask, adapted, large_llama, make_lm, plain_options, train_steps
from rc_train import flops_per_token

from lmrc.config.schema import RcConfig
from lmrc.launcher.gpu_memory import CONTEXT, GIB, estimate_memory
from lmrc.rc.model.lora import DTYPES
from lmrc.training.activation_checkpointing import enable_activation_checkpointing
from lmrc.training.backends.torch_ddp import TorchDdpBackend
from lmrc.training.task import Batch, to_device

# The estimate leaves out fragments and small temporary tensors.
MEMORY_MARGIN = 1.1


def rc_training(machine: Machine) -> str:
    """Train an adapter with and without gradient checkpointing, on long and short queries."""
    config = large_llama(machine)
    config.save_pretrained(machine.folder / "llama")
    base = make_lm(config, machine.device, DTYPES[machine.precision])
    model = adapted(base)
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    require(dtypes == {torch.float32}, f"the adapter is in {dtypes}, not in float32")
    peak_flops = _flops_per_second(machine)
    texts, short = [], 64 if machine.tiny else 1500
    for checkpointing in (False, True):
        if checkpointing:
            enable_activation_checkpointing(base)
        for length in (2 * short if machine.tiny else 4096, short):
            task = RcTask(model, [length])
            batch = to_device(task.collate([0]), machine.device)
            backend = TorchDdpBackend(task, plain_options(machine), machine.world)
            train_steps(backend, [batch], 1)
            times: list[float] = []

            def train(backend: TorchDdpBackend = backend, batch: Batch = batch, times: list[float] = times) -> None:
                times.append(machine.seconds(lambda: train_steps(backend, [batch], 1), calls=2))

            peak = machine.peak_bytes(train)
            # As in the paper on PaLM, recomputed products do not count.
            utilization = flops_per_token(model) * length / times[0] / peak_flops
            text = f"{length} tokens{' with checkpointing' if checkpointing else ''}: {times[0]:.3f} s"
            text += f", {100 * utilization:.0f} % of large products"
            if machine.has_gpu:
                estimate = _estimate(machine, length, checkpointing)
                text += f", {peak / GIB:.1f} GiB ({estimate / GIB:.1f} estimated)"
                require(peak <= MEMORY_MARGIN * estimate, f"more memory than estimated: {text}")
            texts.append(text)
    losses = [float(loss) for loss in train_steps(backend, [batch], 20)]
    require(losses[-1] < losses[0], f"the loss does not fall in 20 steps: {losses[0]:.1f} to {losses[-1]:.1f}")
    return "; ".join([*texts, f"loss {losses[0]:.1f} to {losses[-1]:.1f} in 20 steps"])


def _estimate(machine: Machine, length: int, checkpointing: bool) -> int:
    """Return the estimated bytes of a step with one query, without CUDA's context, which torch does not count."""
    train = {"backend": "torch", "precision": machine.precision, "batch_size": 1, "micro_batch_size": 1}
    given = {
        "model": {"base": str(machine.folder / "llama")},
        "prompt": {"max_length": length},
        "train": {**train, "gradient_checkpointing": checkpointing},
    }
    return estimate_memory(RcConfig.model_validate(given), 1).total - CONTEXT


def _flops_per_second(machine: Machine) -> float:
    """Measure the FLOP/s of large matrix products."""
    size = 256 if machine.tiny else 8192
    matrix = torch.randn(size, size, device=machine.device, dtype=DTYPES[machine.precision])
    matrix @ matrix
    return 2 * size**3 / machine.seconds(lambda: matrix @ matrix, calls=10)
