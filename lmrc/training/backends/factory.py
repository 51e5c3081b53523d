"""The choice of a training backend: DeepSpeed if it runs on this machine, else plain torch."""

from __future__ import annotations

import contextlib
import logging

from lmrc.config.schema import Training
from lmrc.training.backends.base import Backend
from lmrc.training.backends.torch_ddp import TorchDdpBackend
from lmrc.training.distributed import World
from lmrc.training.task import Task

logger = logging.getLogger(__name__)


def loading(options: Training, world: World) -> contextlib.AbstractContextManager[None]:
    """Return a context in which a task loads its model. With ZeRO-3 the model is sharded while it is read."""
    if options.zero_stage == 3 and options.backend != "torch":
        try:
            from lmrc.training.backends.deepspeed_zero import sharded_loading
        except Exception:  # make_backend reports it
            return contextlib.nullcontext()
        return sharded_loading(options, world)
    return contextlib.nullcontext()


def make_backend(task: Task, options: Training, world: World, micro_batches: int) -> Backend:
    """Return the DeepSpeed backend, or plain torch (with a warning) if train.backend is auto and DeepSpeed fails.

    Args:
        micro_batches: Forward passes per optimizer step.
    """
    if options.backend != "torch":
        try:
            from lmrc.training.backends.deepspeed_zero import DeepSpeedZeroBackend
        except Exception as error:  # no compiler, no accelerator, no Linux …
            if options.backend == "deepspeed":
                raise
            if world.is_first:
                logger.warning(f"DeepSpeed does not run here ({error}): plain torch, without ZeRO.")
        else:
            return DeepSpeedZeroBackend(task, options, world, micro_batches)
    return TorchDdpBackend(task, options, world)
