"""Utilization and energy by NVML, with a stand-in for pynvml (its contract is in `lmrc.usage.nvml`)."""

from __future__ import annotations

import sys
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lmrc.usage import nvml
from lmrc.usage.nvml import GpuReading, GpuSampler


class FakeNvml(ModuleType):
    """A stand-in for pynvml: a GPU that is busy for `busy` percent and draws `watts`."""

    class NVMLError(Exception):
        """Any error of NVML."""

    def __init__(self, busy: int = 50, watts: float = 300.0, unsupported: tuple[str, ...] = ()) -> None:
        super().__init__("pynvml")
        self.busy, self.watts, self.unsupported = busy, watts, unsupported
        self.millijoules = 7_000_000.0

    def _check(self, name: str, handle: str) -> None:
        assert handle == "handle of GPU-4f"
        if name in self.unsupported:
            raise self.NVMLError("Not Supported")

    def nvmlInit(self) -> None:
        if "driver" in self.unsupported:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return f"handle of {uuid}"

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        self._check("utilization", handle)
        return SimpleNamespace(gpu=self.busy, memory=1)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        self._check("energy", handle)
        return int(self.millijoules)

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        self._check("power", handle)
        return int(1000 * self.watts)


class Clock:
    """A clock that is set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(nvml, "time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def sampler_of(monkeypatch: pytest.MonkeyPatch, fake: ModuleType | None) -> GpuSampler:
    """Return a sampler that samples only when it is asked to. Without a fake, pynvml is not installed."""
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    sampler = GpuSampler("GPU-4f", lambda: 11.0, seconds=1000.0)
    sampler._stop.set()
    return sampler


def test_busy_seconds_and_the_energy_counter(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    fake = FakeNvml(busy=50)
    sampler = sampler_of(monkeypatch, fake)
    for seconds, busy, joules in ((2.0, 50, 600.0), (4.0, 20, 800.0)):
        clock.now += seconds
        fake.busy = busy
        fake.millijoules += 1000 * joules
        sampler.sample()
    assert sampler.reading == GpuReading(2 * 0.5 + 4 * 0.2, 6.0, 1400.0, 11.0)


def test_power_is_integrated_without_a_counter(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    sampler = sampler_of(monkeypatch, FakeNvml(watts=300.0, unsupported=("energy",)))
    clock.now += 2.0
    sampler.sample()
    assert sampler.reading.joules == 600.0


@pytest.mark.parametrize("fake", [None, FakeNvml(unsupported=("driver",))])
def test_without_package_or_driver_only_the_memory_is_known(
    fake: FakeNvml | None, monkeypatch: pytest.MonkeyPatch, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    sampler = sampler_of(monkeypatch, fake)
    clock.now += 2.0
    sampler.sample()
    assert sampler.reading == GpuReading(memory=11.0)
    assert ("Driver Not Loaded" in caplog.text) == (fake is not None)


def test_a_gpu_that_supports_nothing(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """As a part of a GPU (MIG) does."""
    sampler = sampler_of(monkeypatch, FakeNvml(unsupported=("utilization", "energy", "power")))
    clock.now += 2.0
    sampler.sample()
    assert sampler.reading == GpuReading(memory=11.0)


def test_the_thread_samples_until_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    sampler = GpuSampler("GPU-4f", lambda: 11.0, seconds=0.01)
    limit = time.monotonic() + 10
    while not sampler.reading.sampled_seconds and time.monotonic() < limit:
        time.sleep(0.01)
    sampler.stop()
    ended = sampler.reading
    assert ended.busy_seconds == pytest.approx(ended.sampled_seconds / 2)
    time.sleep(0.05)
    assert sampler.reading == ended
