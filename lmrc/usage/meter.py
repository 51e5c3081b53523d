"""The meter of one process: seconds by part, work done, and the GPU."""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lmrc.usage.nvml import GpuReading, GpuSampler
from lmrc.usage.record import Use, utilization

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_RECORDS = 5.0
SECONDS_BETWEEN_WINDOWS = 60.0
# GPUs are idle if their mean utilization is under this percentage in so many windows in a row.
LOW_UTILIZATION, LOW_WINDOWS = 30.0, 5


class UseMeter:
    """Measures the use of the hardware by a process, and for a training by all of its ranks.

    Parts are measured on the host. On a GPU the host runs ahead of it, so time in data is an upper bound of what the
    GPU waits for data.

    Args:
        base: what is known at the start: processes, GPUs, cores, unit.
        began: time.monotonic() at the start of the process.
        sampler: samples this process's GPU; None without one.
    """

    def __init__(self, base: Use, began: float | None = None, sampler: GpuSampler | None = None) -> None:
        now = time.monotonic()
        self._began = now if began is None else began
        self._base = replace(base, began=time.time() - (now - self._began))
        self._sampler = sampler
        self._name = uuid.uuid4().hex[:12]
        self._open: list[str] = []
        self._parts: dict[str, float] = {}
        self._switched = now
        self._units = self._flops = 0.0
        self._gpus: Sequence[float] | None = None
        self._recorded = self._window_at = now
        self._window = self.use()
        self._low = 0

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time inside as a part of the run (`lmrc.usage.record.PARTS`), and not as one around it."""
        self._switch()
        self._open.append(name)
        try:
            yield
        finally:
            self._switch()
            self._open.pop()

    def _switch(self) -> None:
        now = time.monotonic()
        if self._open:
            self._parts[self._open[-1]] = self._parts.get(self._open[-1], 0.0) + now - self._switched
        self._switched = now

    def started(self) -> None:
        """Count the time so far as the start: imports, loading, resuming."""
        self._window_at = time.monotonic()
        self._parts["start"] = self._window_at - self._began
        self._window = self.use()

    def add(self, units: float, flops: float = 0.0) -> None:
        """Count work that all processes have done."""
        self._units += units
        self._flops += flops

    @property
    def own_gpu(self) -> list[float]:
        """Return the newest reading of this process's GPU, to be summed over ranks; empty without a GPU."""
        if self._sampler is None:
            return []
        reading = self._sampler.reading
        known = reading.joules is not None
        return [reading.busy_seconds, reading.sampled_seconds, reading.joules or 0.0, float(known), reading.memory]

    def set_gpus(self, sums: Sequence[float]) -> None:
        """Set the readings of all ranks' GPUs: the sums of their `own_gpu`."""
        self._gpus = sums

    def use(self) -> Use:
        """Return the use up to now."""
        self._switch()
        base, now = self._base, time.monotonic()
        sums = self.own_gpu if self._gpus is None else self._gpus
        reading = GpuReading()
        if sums:
            busy, sampled, joules, metered, memory = sums
            # If some GPUs have no energy counter, the sum would be too low.
            reading = GpuReading(busy, sampled, joules if metered == base.gpus else None, memory / max(1, base.gpus))
        return replace(
            base,
            seconds=(now - self._began) * base.processes,
            ended=time.time(),
            units=self._units,
            flops=self._flops,
            parts={name: value * base.processes for name, value in self._parts.items()},
            busy_seconds=reading.busy_seconds,
            sampled_seconds=reading.sampled_seconds,
            joules=reading.joules,
            memory=reading.memory,
        )

    def record(self, folder: Path, now: bool = False) -> None:
        """Write the use into the run folder, at most every few seconds unless `now`."""
        if now or time.monotonic() - self._recorded > SECONDS_BETWEEN_RECORDS:
            self._recorded = time.monotonic()
            self.use().write(folder, self._name)

    def window(self) -> Use | None:
        """Return the use of the last minute once it is over; None before. Warn if the GPUs stay idle."""
        if time.monotonic() - self._window_at < SECONDS_BETWEEN_WINDOWS:
            return None
        use = self.use()
        window, self._window, self._window_at = use.since(self._window), use, time.monotonic()
        self._warn_if_idle(utilization([window]), window)
        return window

    def _warn_if_idle(self, percent: float | None, window: Use) -> None:
        self._low = self._low + 1 if percent is not None and percent < LOW_UTILIZATION else 0
        if self._low == LOW_WINDOWS and percent is not None:
            data = 100.0 * window.parts.get("data", 0.0) / window.seconds
            logger.warning(
                "the GPUs were busy for less than %.0f %% in each of the last %d minutes (now %.0f %%; %.0f %% of the "
                "time goes to data): use fewer GPUs, or raise the batch",
                LOW_UTILIZATION,
                LOW_WINDOWS,
                percent,
                data,
            )

    def close(self, folder: Path | None) -> None:
        """End the sampler, and write the last record into the run folder; None writes none."""
        if folder is not None:
            self.record(folder, now=True)
        if self._sampler is not None:
            self._sampler.stop()
