"""The meter of a training or of a worker on this process's devices."""

from __future__ import annotations

import torch

from lmrc.common.threads import cpus
from lmrc.training.distributed import World
from lmrc.usage.gpus import known_gpu
from lmrc.usage.meter import UseMeter
from lmrc.usage.nvml import GpuSampler
from lmrc.usage.record import Use


def make_meter(world: World, unit: str, gpus_per_process: int = 1, is_worker: bool = False) -> UseMeter:
    """Return the meter of a process: of all ranks for a training, of itself for a worker.

    Args:
        unit: "documents" or "tokens".
    """
    base = Use(unit=unit, processes=world.size, cores=cpus() * world.size, is_worker=is_worker)
    if world.device.type != "cuda":
        return UseMeter(base, world.began)
    properties = torch.cuda.get_device_properties(world.device)
    gpu = known_gpu(properties.name)
    base = Use(
        unit=unit,
        processes=world.size,
        cores=base.cores,
        gpus=world.size * gpus_per_process,
        peak=0.0 if gpu is None else gpu.flops,
        gpu=properties.name,
        is_worker=is_worker,
    )

    def allocated() -> float:
        return float(torch.cuda.max_memory_allocated(world.device))

    return UseMeter(base, world.began, GpuSampler(f"GPU-{properties.uuid}", allocated))
