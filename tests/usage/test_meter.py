"""The meter: parts that exclude each other, ranks that are summed, and the warning of idle GPUs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lmrc.usage import meter as module
from lmrc.usage.meter import UseMeter
from lmrc.usage.nvml import GpuReading, GpuSampler
from lmrc.usage.record import Use, read_use


class Clock:
    """A clock that is set by hand; its Unix time is 1,000 s ahead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        times = SimpleNamespace(monotonic=lambda: self.now, time=lambda: self.now + 1000)
        monkeypatch.setattr(module, "time", times)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def sampler(reading: GpuReading) -> GpuSampler:
    return cast(GpuSampler, SimpleNamespace(reading=reading, stop=lambda: None))


def test_parts_exclude_each_other(clock: Clock) -> None:
    """A checkpoint is finished during an evaluation, and the process began 10 s before its meter."""
    meter = UseMeter(Use(processes=2, cores=4), began=90.0)
    clock.now += 5
    meter.started()
    with meter.part("data"):
        clock.now += 3
    clock.now += 20
    with meter.part("evaluation"):
        clock.now += 4
        with meter.part("checkpoint"):
            clock.now += 2
        clock.now += 1
    meter.add(7, 70.0)
    use = meter.use()
    assert (use.began, use.ended) == (1090.0, 1135.0)
    assert (use.seconds, use.core_seconds, use.units, use.flops) == (90.0, 180.0, 7, 70.0)
    assert use.parts == {"start": 30.0, "data": 6.0, "evaluation": 10.0, "checkpoint": 4.0}
    assert use.work_seconds == 2 * (3 + 20)


def test_a_part_that_is_open_counts_up_to_now(clock: Clock) -> None:
    meter = UseMeter(Use())
    with pytest.raises(KeyError), meter.part("evaluation"):
        clock.now += 4
        assert meter.use().parts == {"evaluation": 4.0}
        clock.now += 1
        raise KeyError
    clock.now += 9
    assert meter.use().parts == {"evaluation": 5.0}


def test_readings_of_all_ranks_are_summed(clock: Clock) -> None:
    meter = UseMeter(Use(processes=2, gpus=2), sampler=sampler(GpuReading(10.0, 20.0, 500.0, 8.0)))
    assert meter.own_gpu == [10.0, 20.0, 500.0, 1.0, 8.0]
    meter.set_gpus([30.0, 40.0, 1100.0, 2.0, 20.0])
    use = meter.use()
    assert (use.busy_seconds, use.sampled_seconds, use.joules, use.memory) == (30.0, 40.0, 1100.0, 10.0)
    # One of the two GPUs has no energy counter.
    meter.set_gpus([30.0, 40.0, 600.0, 1.0, 20.0])
    assert meter.use().joules is None


def test_without_a_gpu_ranks_exchange_nothing(clock: Clock) -> None:
    meter = UseMeter(Use())
    assert meter.own_gpu == []
    meter.set_gpus([])
    assert meter.use().joules is None


def test_records_are_written_every_few_seconds(clock: Clock, tmp_path: Path) -> None:
    meter = UseMeter(Use())
    meter.record(tmp_path)
    assert read_use(tmp_path) == []
    for seconds, recorded in ((6, 6.0), (2, 6.0), (4, 12.0)):
        clock.now += seconds
        meter.record(tmp_path)
        assert [use.seconds for use in read_use(tmp_path)] == [recorded]
    clock.now += 1
    meter.close(tmp_path)
    # Another attempt has a record of its own.
    UseMeter(Use()).close(tmp_path)
    assert sorted(use.seconds for use in read_use(tmp_path)) == [0.0, 13.0]


def test_a_minute_is_reported_once_it_is_over(clock: Clock) -> None:
    meter = UseMeter(Use(unit="tokens"), began=0.0)
    clock.now += 20
    meter.started()
    clock.now += 59
    meter.add(100)
    assert meter.window() is None
    clock.now += 1
    first = meter.window()
    assert first is not None and (first.seconds, first.units, first.work_seconds) == (60.0, 100, 60.0)
    assert meter.window() is None
    clock.now += 60
    meter.add(40)
    second = meter.window()
    assert second is not None and (second.seconds, second.units) == (60.0, 40)


@pytest.mark.parametrize(
    ("percents", "warnings"),
    [([29] * 4, 0), ([29] * 5, 1), ([29] * 12, 1), ([29, 29, 31] * 3, 0), ([10] * 5 + [80] + [10] * 5, 2)],
)
def test_gpus_that_stay_idle_are_named_once(
    percents: list[int], warnings: int, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    meter = UseMeter(Use(gpus=1), sampler=sampler(GpuReading()))
    busy = sampled = 0.0
    for percent in percents:
        clock.now += 60
        with meter.part("data"):
            pass
        busy, sampled = busy + 0.6 * percent, sampled + 60
        meter.set_gpus([busy, sampled, 0.0, 0.0, 0.0])
        meter.window()
    assert caplog.text.count("the GPUs were busy for less than 30 %") == warnings


def test_unknown_utilization_is_not_low(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    meter = UseMeter(Use())
    for _ in range(9):
        clock.now += 60
        meter.window()
    assert caplog.text == ""


def test_the_meter_of_a_gpu_knows_its_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks on H100s, one sampler per process, found by the UUID of its GPU."""
    import torch

    from lmrc.training import measured_use
    from lmrc.training.distributed import World

    properties = SimpleNamespace(name="NVIDIA H100 80GB HBM3", uuid="4fd0-12")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 2**30)
    made: list[Any] = []

    def fake(uuid: str, allocated: Any) -> GpuSampler:
        made.append((uuid, allocated()))
        return sampler(GpuReading())

    monkeypatch.setattr(measured_use, "GpuSampler", fake)
    use = measured_use.make_meter(World(rank=1, size=2, device=torch.device("cuda", 1)), "tokens").use()
    assert made == [("GPU-4fd0-12", 2**30)]
    assert (use.gpus, use.processes, use.peak, use.unit, use.gpu) == (2, 2, 989e12, "tokens", properties.name)
