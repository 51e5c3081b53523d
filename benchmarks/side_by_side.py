"""What benchmarks of two sides in one process have in common."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def in_turn(sides: dict[str, Callable[[int], None]], batches: int) -> dict[str, float]:
    """Seconds of each side over all batches, each batch once by each side, the first to go alternating.

    Each side does its first batch once before, unmeasured.
    """
    seconds = dict.fromkeys(sides, 0.0)
    for step in sides.values():
        step(0)
    for index in range(batches):
        names = list(sides) if index % 2 else list(sides)[::-1]
        for name in names:
            begun = time.perf_counter()
            sides[name](index)
            seconds[name] += time.perf_counter() - begun
    return seconds


def highest_memory() -> float:
    """The most memory that this process has held, in MB (not `ru_maxrss`, which begins with the parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
