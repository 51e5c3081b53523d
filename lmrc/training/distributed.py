"""The processes of one run: who am I, how many are we, and the few things said between us."""

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

if not torch.cuda.is_available():
    # Whoever imports DeepSpeed first (peft and accelerate do) would have it warn that it found no accelerator.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

# A rank that hangs must not leave the others waiting for the default of half an hour.
TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class World:
    """This process among its peers: `rank` of `size`, on `device`; they wait for each other at most `timeout`."""

    rank: int
    size: int
    device: torch.device
    timeout: timedelta = TIMEOUT

    @property
    def is_first(self) -> bool:
        """True on the process that writes files and prints."""
        return self.rank == 0

    def shard(self, count: int) -> tuple[list[int], int]:
        """This rank's part of `range(count)`, of equal length on every rank.

        Returns (indices, real): the first `real` indices are this rank's own; the rest repeat one of them (or 0), so
        that all ranks make the same number of forward passes, and must not be counted.
        """
        own = list(range(self.rank, count, self.size))
        longest = -(-count // self.size)
        return own + [own[0] if own else 0] * (longest - len(own)), len(own)

    def sum(self, values: list[float]) -> list[float]:
        """Elementwise sum over all ranks, in float64."""
        if self.size == 1:
            return list(values)
        # gloo and NCCL both take float64.
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def max(self, values: list[float]) -> list[float]:
        """Elementwise the largest over all ranks."""
        if self.size == 1:
            return list(values)
        largest = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return [float(value) for value in largest.tolist()]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's (picklable) value, in order of rank, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any) -> Any:
        """The first rank's (picklable) value, on every rank."""
        return self.gather(value)[0]

    def run_on_all_ranks(self, act: Callable[[], Any], problem: str) -> list[Any]:
        """Every rank's (picklable) outcome of `act`, which must not talk to other ranks. Collective.

        Where it fails on a rank, all ranks raise RunError: `problem`, the ranks, their hosts and causes. A fault of
        ours is raised as it is where it happened.
        """
        value, cause, fault = None, "", None
        try:
            value = act()
        except Exception as error:
            cause = f"rank {self.rank} on {socket.gethostname()}: {str(error) or type(error).__name__}"
            fault = None if _is_of_the_machine(error) else error
        outcomes = self.gather((value, cause))
        if fault is not None:
            raise fault
        causes = [cause for _, cause in outcomes if cause]
        if causes:
            # Not in the pre-flight: what failed, failed on another rank.
            raise RunError(f"{problem} ({'; '.join(causes)})")
        return [value for value, _ in outcomes]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier()


def _is_of_the_machine(error: Exception) -> bool:
    """Whether a file could not be written or read; libraries in Rust have errors of their own for a full disk."""
    return isinstance(error, (OSError, UserError, SafetensorError)) or "(os error " in str(error)


ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def init_process_group(timeout: timedelta = TIMEOUT) -> World:
    """Join the process group that RANK, WORLD_SIZE, LOCAL_RANK and MASTER_ADDR/PORT describe; alone without them."""
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
    """Print a line on the first rank, for whoever has no World; at any time, in a process group or before."""
    if os.environ.get("RANK", "0") == "0":
        print(message, flush=True)


def destroy_process_group() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
