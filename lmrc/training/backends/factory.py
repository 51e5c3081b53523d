"""Which backend runs the steps: DeepSpeed (`lmrc.training.backends.deepspeed_zero`) where it runs, else torch (`lmrc.training.backends.torch_ddp`)."""

from __future__ import annotations

import contextlib

from lmrc.config.schema import Training
from lmrc.training.backends.base import Backend
from lmrc.training.backends.torch_ddp import TorchDdpBackend
from lmrc.training.distributed import World
from lmrc.training.task import Task


def loading(options: Training, world: World) -> contextlib.AbstractContextManager[None]:
    """In which a task may load a large model: under ZeRO-3 it is sharded as it is read."""
    if options.zero_stage == 3 and options.backend != "torch":
        try:
            from lmrc.training.backends.deepspeed_zero import sharded_loading
        except Exception:  # `make_backend` says so, or lets it through
            return contextlib.nullcontext()
        return sharded_loading(options, world)
    return contextlib.nullcontext()


def make_backend(task: Task, options: Training, world: World, micro_batches: int) -> Backend:
    """DeepSpeed where it runs, else plain torch; says which and why."""
    if options.backend != "torch":
        try:
            from lmrc.training.backends.deepspeed_zero import DeepSpeedZeroBackend
        except Exception as error:  # no compiler, no accelerator, no Linux …
            if options.backend == "deepspeed":
                raise
            if world.is_first:
                print(f"DeepSpeed does not run here ({error}): plain torch, without ZeRO.", flush=True)
        else:
            return DeepSpeedZeroBackend(task, options, world, micro_batches)
    return TorchDdpBackend(task, options, world)
