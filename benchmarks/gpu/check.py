"""Outcomes of the checks, the machine that they run on, and how they measure."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from lmrc.config.schema import ResolvedPrecision
from lmrc.training.distributed import World


class CheckFailed(Exception):
    """The check found something wrong. The message is its value."""


class CheckSkipped(Exception):
    """The check cannot run on this machine. The message says why."""


@dataclass(frozen=True)
class Machine:
    """The machine of the checks.

    Attributes:
        device: device of models and batches.
        tiny: True for small shapes, on the CPU.
        folder: an empty folder for files.
    """

    device: torch.device
    tiny: bool
    folder: Path

    @property
    def has_gpu(self) -> bool:
        """Return whether the checks run on a GPU."""
        return self.device.type == "cuda"

    @property
    def world(self) -> World:
        """Return the world of a training by this process alone."""
        return World(rank=0, size=1, device=self.device)

    @property
    def precision(self) -> ResolvedPrecision:
        """Return bf16 on a GPU, and fp32 on a CPU, which may only emulate bf16."""
        return "bf16" if self.has_gpu else "fp32"

    def seconds(self, function: Callable[[], object], calls: int = 1) -> float:
        """Return the seconds per call, with the time until the device is done."""
        self._wait()
        start = time.perf_counter()
        for _ in range(calls):
            function()
        self._wait()
        return (time.perf_counter() - start) / calls

    def peak_bytes(self, function: Callable[[], object]) -> int:
        """Call the function and return the most bytes of tensors on the GPU meanwhile; 0 on a CPU."""
        if not self.has_gpu:
            function()
            return 0
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        function()
        self._wait()
        return int(torch.cuda.max_memory_allocated(self.device))

    @contextlib.contextmanager
    def no_waits(self) -> Iterator[None]:
        """While active, an operation for which the host waits for the GPU raises RuntimeError."""
        if not self.has_gpu:
            yield
            return
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def profile(self, function: Callable[[], object]) -> list[tuple[str, float]]:
        """Call the function and return the name and the microseconds of each kernel; on a CPU, of each ATen call."""
        kind = "CUDA" if self.has_gpu else "CPU"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.has_gpu else [])]
        with profile(activities=activities) as profiler:
            function()
            self._wait()
        return [
            (event.name, event.time_range.elapsed_us())
            for event in profiler.events() or []
            if event.device_type.name == kind
            and not getattr(event, "is_user_annotation", False)
            and (self.has_gpu or event.name.startswith("aten::"))
        ]

    def _wait(self) -> None:
        if self.has_gpu:
            torch.cuda.synchronize(self.device)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the norm of the difference as a share of the norm of `expected`, computed in float64 on the CPU."""
    actual, expected = actual.detach().double().cpu(), expected.detach().double().cpu()
    return float((actual - expected).norm() / expected.norm())


def require(condition: bool, message: str) -> None:
    """Check a condition.

    Raises:
        CheckFailed: it does not hold.
    """
    if not condition:
        raise CheckFailed(message)
