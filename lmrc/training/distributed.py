"""The process group of a run: rank, world size, device and collective operations."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError

from lmrc.common.errors import RunError, UserError

# On Hopper and Blackwell torch prefers the attention of cuDNN, which makes and keeps a plan for each new shape.
# Lengths of texts rarely repeat, so a call would take up to 40 times as long. The variable is for child processes, too.
os.environ.setdefault("TORCH_CUDNN_SDPA_DEPRIORITIZED", "1")
torch.backends.cuda.enable_cudnn_sdp(False)

if not torch.cuda.is_available():
    # DeepSpeed, which peft and accelerate import, warns without this that it found no accelerator.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

# Time that ranks wait for a rank that hangs. PyTorch's default for gloo is 30 minutes.
TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class World:
    """The position of this process in the process group.

    Attributes:
        rank: Rank of this process.
        size: Number of processes.
        device: Device of this process.
        timeout: Longest time that ranks wait for each other.
    """

    rank: int
    size: int
    device: torch.device
    timeout: timedelta = TIMEOUT

    @property
    def is_first(self) -> bool:
        """True on rank 0, which writes files and prints."""
        return self.rank == 0

    def shard(self, count: int) -> tuple[list[int], int]:
        """Return this rank's shard of `range(count)`, padded to the same length on every rank.

        Returns:
            (indices, real). Only the first `real` indices count. The others are padding, so that all ranks make the
            same number of forward passes.
        """
        own = list(range(self.rank, count, self.size))
        longest = -(-count // self.size)
        return own + [own[0] if own else 0] * (longest - len(own)), len(own)

    def sum(self, values: list[float]) -> list[float]:
        """Return the elementwise sum over all ranks, in float64. Collective."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def max(self, values: list[float]) -> list[float]:
        """Return the elementwise maximum over all ranks. Collective."""
        if self.size == 1:
            return list(values)
        largest = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return [float(value) for value in largest.tolist()]

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in order of rank. Collective; the value must be picklable."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
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
            dist.barrier()


def _is_io_or_user_error(error: Exception) -> bool:
    """Return True if the error is no bug: a file cannot be written or read, or the user made a mistake."""
    # Libraries in Rust, such as safetensors, have their own errors for a full disk.
    return isinstance(error, (OSError, UserError, SafetensorError)) or "(os error " in str(error)


ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def init_process_group(timeout: timedelta = TIMEOUT) -> World:
    """Join the process group that RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT describe.

    Args:
        timeout: Longest time that ranks wait for each other.

    Returns:
        The position of this process; a group of one if WORLD_SIZE is not set.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
    return World(rank=rank, size=size, device=device, timeout=timeout)


def say(message: str) -> None:
    """Print a line on rank 0. Needs no process group."""
    if os.environ.get("RANK", "0") == "0":
        print(message, flush=True)


def destroy_process_group() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
