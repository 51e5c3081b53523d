"""The process group of a run: rank, world size, device and collective operations."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor

from lmrc.common.errors import RunError, UserError
from lmrc.training.watchdog import Watchdog

if not torch.cuda.is_available():
    # DeepSpeed, which peft and accelerate import, warns without this that it found no accelerator.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

# Time that ranks wait for a rank that hangs. PyTorch's default for gloo is 30 minutes.
TIMEOUT = timedelta(minutes=10)
# The watchdog reports a timeout before the process group, which would end the process without a report under NCCL.
WATCHDOG_LEAD = timedelta(minutes=1)


@dataclass(frozen=True)
class World:
    """The position of this process in the process group.

    Attributes:
        rank: Rank of this process.
        size: Number of processes.
        device: Device of this process.
        timeout: Timeout of process groups.
        watchdog: Ends this process if another rank failed or does not answer; None without one.
        began: time.monotonic() at the start of this process, or of its work if it ran something else before.
    """

    rank: int
    size: int
    device: torch.device
    timeout: timedelta = TIMEOUT
    watchdog: Watchdog | None = field(default=None, compare=False, repr=False)
    began: float = field(default_factory=time.monotonic, compare=False, repr=False)

    @property
    def is_first(self) -> bool:
        """True on rank 0, which writes the files of the run."""
        return self.rank == 0

    def watch(self, doing: str) -> contextlib.AbstractContextManager[None]:
        """Return a context in which the watchdog ends this process if it makes no progress. See `Watchdog.watch`."""
        return contextlib.nullcontext() if self.watchdog is None else self.watchdog.watch(doing)

    def shard(self, count: int) -> tuple[list[int], int]:
        """Return this rank's shard of `range(count)`, padded to the same length on every rank.

        Returns:
            (indices, real). Only the first `real` indices count. The others are padding, so that all ranks make the
            same number of forward passes.
        """
        own = list(range(self.rank, count, self.size))
        longest = -(-count // self.size)
        return own + [own[0] if own else 0] * (longest - len(own)), len(own)

    def sum(self, values: Sequence[Tensor | float]) -> list[float]:
        """Return the elementwise sum over all ranks, in float64. Collective.

        Args:
            values: Scalars, on the host or on `device`. They are read together, which waits for the device once.
        """
        on_device = {index: value for index, value in enumerate(values) if isinstance(value, Tensor)}
        on_host = [0.0 if isinstance(value, Tensor) else float(value) for value in values]
        if self.size == 1 and not on_device:
            return on_host
        # Without `non_blocking` the copy would wait for the device.
        total = torch.tensor(on_host, dtype=torch.float64).to(self.device, non_blocking=True)
        for index, value in on_device.items():
            total[index].copy_(value.detach())
        with self.watch("a sum over all ranks"):
            if self.size > 1:
                dist.all_reduce(total)
            sums: list[float] = total.tolist()
        return sums

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in order of rank. Collective; the value must be picklable."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with self.watch("a gather from all ranks"):
            dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any) -> Any:
        """Return the value of rank 0. Collective; the value must be picklable."""
        return self.gather(value)[0]

    def run_on_all_ranks(self, act: Callable[[], Any], problem: str) -> list[Any]:
        """Call a function on all ranks, and raise on all of them if it fails on one. Collective.

        Args:
            act: The function. It must not contain collective operations, and its result must be picklable.
            problem: The beginning of the error message.

        Returns:
            The results of all ranks, in order of rank.

        Raises:
            RunError: It failed on a rank. The message names the ranks, their hosts and the causes.
            Exception: An error that is a bug is raised unchanged on its own rank.
        """
        value, cause, bug = None, "", None
        try:
            value = act()
        except Exception as error:
            cause = f"rank {self.rank} on {socket.gethostname()}: {str(error) or type(error).__name__}"
            bug = None if _is_io_or_user_error(error) else error
        outcomes = self.gather((value, cause))
        if bug is not None:
            raise bug
        causes = [cause for _, cause in outcomes if cause]
        if causes:
            # Not in the pre-flight: the failure may be on another rank.
            raise RunError(f"{problem} ({'; '.join(causes)})")
        return [value for value, _ in outcomes]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            with self.watch("a barrier"):
                dist.barrier()


def _is_io_or_user_error(error: Exception) -> bool:
    """Return True if the error is no bug: a file cannot be written or read, or the user made a mistake."""
    # Libraries in Rust, such as safetensors, have their own errors for a full disk.
    return isinstance(error, (OSError, UserError, SafetensorError)) or "(os error " in str(error)


ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def init_process_group(
    timeout: timedelta = TIMEOUT, watchdog: Watchdog | None = None, began: float | None = None
) -> World:
    """Join the process group that RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT describe.

    Args:
        timeout: Longest time that ranks wait for each other.
        watchdog: Ends this process at the timeout. It is not used if there is one process.
        began: See `World`; by default now.

    Returns:
        The position of this process; a group of one if WORLD_SIZE is not set.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    device = _device()
    began = time.monotonic() if began is None else began
    if size == 1:
        return World(rank=rank, size=size, device=device, timeout=timeout, began=began)
    limit = timeout if watchdog is None else timeout + WATCHDOG_LEAD
    world = World(rank=rank, size=size, device=device, timeout=limit, watchdog=watchdog, began=began)
    if not dist.is_initialized():
        more: dict[str, Any] = {}
        # Connect at once and on this GPU. Earlier versions hang (pytorch#153960).
        if device.type == "cuda" and torch.__version__ >= "2.7.1":
            more["device_id"] = device
        with world.watch("the start of the process group"):
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=limit, **more)
    return world


def _device() -> torch.device:
    """Return the device of this process and make it the current one.

    A site may show each task only some of the node's GPUs, often one (--gpus-per-task, --gpu-bind). LOCAL_RANK, which
    DeepSpeed reads too, then becomes the index among these. NCCL refuses two ranks on one GPU.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    os.environ["LOCAL_RANK"] = str(index)
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def destroy_process_group(world: World = ALONE) -> None:
    """Leave the process group, if there is one. All ranks must: under NCCL this waits for the others."""
    if dist.is_initialized():
        with world.watch("the end of the process group"):
            dist.destroy_process_group()


def skip_teardown_at_exit() -> None:
    """Let this process end with status 0 and without Python's teardown. Called by a rank that has succeeded.

    A thread of gloo may still hold tensors of the last collective, if DeepSpeed keeps a reference to the group. It
    aborts the process if it drops them during the teardown (pytorch#190489), and a finished rank would count as failed.
    """
    atexit.register(_exit_at_once)


def _exit_at_once() -> None:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
