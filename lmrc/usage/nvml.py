"""Utilization and energy of a GPU by NVML, if the package pynvml is installed (pip install nvidia-ml-py).

These functions of pynvml are used, and a stand-in in tests must have them:

| function | returns |
|---|---|
| `nvmlInit()` | nothing |
| `nvmlDeviceGetHandleByUUID(uuid: str)` | a handle; `uuid` is such as GPU-4fd0… |
| `nvmlDeviceGetUtilizationRates(handle)` | an object with `gpu`: percent of the last sampling period with a kernel |
| `nvmlDeviceGetTotalEnergyConsumption(handle)` | millijoules since the driver was loaded; Volta or newer |
| `nvmlDeviceGetPowerUsage(handle)` | milliwatts now; integrated if there is no energy counter |

All raise `NVMLError` if the GPU or the driver does not support them: the figure is then unknown.
"""

from __future__ import annotations

import importlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_SAMPLES = 2.0


@dataclass(frozen=True)
class GpuReading:
    """Use of a GPU since its sampler started.

    Attributes:
        busy_seconds: utilization x seconds.
        sampled_seconds: seconds with a sampled utilization; 0 if it is not known.
        joules: energy; None if it is not known.
        memory: peak of the allocated bytes.
    """

    busy_seconds: float = 0.0
    sampled_seconds: float = 0.0
    joules: float | None = None
    memory: float = 0.0


class GpuSampler:
    """A thread that samples a GPU every two seconds. It neither starts CUDA work nor waits for the GPU.

    Args:
        uuid: UUID of the GPU, such as GPU-4fd0…
        allocated: returns the peak of the allocated bytes.
    """

    def __init__(self, uuid: str, allocated: Callable[[], float], seconds: float = SECONDS_BETWEEN_SAMPLES) -> None:
        self._nvml, self._handle = _open(uuid)
        self._allocated = allocated
        self._reading = GpuReading(memory=allocated())
        self._last = time.monotonic()
        self._counter = self._query("nvmlDeviceGetTotalEnergyConsumption")
        self._stop = threading.Event()
        self._seconds = seconds
        self._thread = threading.Thread(target=self._run, name="gpu-sampler", daemon=True)
        self._thread.start()

    @property
    def reading(self) -> GpuReading:
        """Return the newest reading."""
        return self._reading

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(timeout=self._seconds)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self.sample()

    def sample(self) -> None:
        """Read the GPU once. The thread calls it."""
        now, before = time.monotonic(), self._reading
        elapsed, self._last = now - self._last, now
        rates = self._query("nvmlDeviceGetUtilizationRates")
        busy, sampled = before.busy_seconds, before.sampled_seconds
        if rates is not None:
            busy, sampled = busy + elapsed * rates.gpu / 100.0, sampled + elapsed
        joules = before.joules
        counter = None if self._counter is None else self._query("nvmlDeviceGetTotalEnergyConsumption")
        if counter is not None:
            joules = (joules or 0.0) + (counter - self._counter) / 1000.0
            self._counter = counter
        elif self._counter is None and (milliwatts := self._query("nvmlDeviceGetPowerUsage")) is not None:
            joules = (joules or 0.0) + elapsed * milliwatts / 1000.0
        self._reading = GpuReading(busy, sampled, joules, self._allocated())

    def _query(self, function: str) -> Any:
        """Return what a function of NVML says about the GPU; None if it is not supported."""
        if self._nvml is None:
            return None
        try:
            return getattr(self._nvml, function)(self._handle)
        except self._nvml.NVMLError:
            return None


def _open(uuid: str) -> tuple[Any, Any]:
    """Return pynvml and the handle of a GPU; None for both without the package or the driver."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        logger.debug("pynvml is not installed, so utilization and energy of the GPUs are not known")
        return None, None
    try:
        nvml.nvmlInit()
        return nvml, nvml.nvmlDeviceGetHandleByUUID(uuid)
    except nvml.NVMLError as error:
        logger.warning("utilization and energy of the GPU are not known: NVML says %s", error)
        return None, None
