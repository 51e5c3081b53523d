"""The figures of a run's use, from records whose figures can be computed by hand."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from lmrc.usage.record import FOLDER, Use, read_use, run_figures, use_figures, use_text

# An hour on 4 GPUs of 1e12 FLOP/s, of which three quarters are steps.
TRAINING = Use(
    seconds=4 * 3600,
    processes=4,
    gpus=4,
    cores=32,
    began=0,
    ended=3600,
    unit="tokens",
    units=2.7e6,
    flops=0.4 * 4 * 2700 * 1e12,
    peak=1e12,
    parts={"start": 4 * 180.0, "data": 4 * 270.0, "evaluation": 4 * 540.0, "checkpoint": 4 * 180.0},
    busy_seconds=0.6 * 4 * 3600,
    sampled_seconds=4 * 3600,
    joules=4 * 500.0 * 3600,
    memory=20 * 2**30,
)


def test_figures_of_a_training() -> None:
    assert use_figures([TRAINING], 2.5) == {
        "tokens_per_second": 1000.0,
        "tokens_per_second_and_gpu": 250.0,
        "gpu_hours": 4.0,
        "price": 10.0,
        "kwh": 2.0,
        "mfu": 40.0,
        "gpu_utilization": 60.0,
        "gpu_memory_gib": 20.0,
        "shares": {"start": 5.0, "data": 7.5, "evaluation": 15.0, "checkpoint": 5.0},
    }


def test_an_attempt_that_was_killed_costs_too() -> None:
    """The second attempt has half of the GPUs and did no work."""
    killed = replace(TRAINING, seconds=3600, processes=2, gpus=2, units=0, flops=0, parts={"start": 3600.0})
    figures = use_figures([TRAINING, killed])
    assert figures["gpu_hours"] == 5.0 and "price" not in figures
    assert (figures["tokens_per_second"], figures["mfu"]) == (1000.0, 40.0)
    assert figures["shares"]["start"] == pytest.approx(100 * (720 + 3600) / (5 * 3600), abs=0.05)


def test_no_mfu_without_a_peak_and_no_energy_without_a_meter() -> None:
    unknown = replace(TRAINING, peak=0.0, joules=None, sampled_seconds=0.0, busy_seconds=0.0, memory=0.0)
    figures = use_figures([unknown])
    assert figures.keys().isdisjoint({"mfu", "kwh", "gpu_utilization", "gpu_memory_gib"})
    # One attempt on an unknown GPU makes that of all unknown.
    assert "mfu" not in use_figures([TRAINING, unknown])


def test_without_a_gpu_cores_count() -> None:
    here = Use(seconds=1800, cores=2, ended=1800, units=900, parts={"start": 900.0})
    assert use_figures([here], 2.5) == {"documents_per_second": 1.0, "core_hours": 1.0, "shares": {"start": 50.0}}


def test_workers_overlap() -> None:
    """Two workers work from 10 to 110 s, the second alone until 210; a third works another night."""
    one = Use(seconds=110, gpus=1, began=0, ended=110, units=300, parts={"start": 10.0}, is_worker=True)
    two = Use(seconds=210, gpus=1, began=0, ended=210, units=500, parts={"start": 10.0}, is_worker=True)
    three = Use(seconds=110, gpus=1, began=90_000, ended=90_110, units=100, parts={"start": 10.0}, is_worker=True)
    figures = use_figures([three, two, one])
    assert figures["documents_per_second"] == 900 / (200 + 100)
    assert figures["documents_per_second_and_gpu"] == pytest.approx(900 / (100 + 200 + 100), abs=0.001)
    assert figures["gpu_hours"] == pytest.approx(430 / 3600, abs=1e-4)


def test_what_came_after_an_earlier_record() -> None:
    later = replace(TRAINING, seconds=4 * 3660, ended=3660, units=2.76e6, flops=TRAINING.flops + 0.2 * 4 * 60e12)
    later = replace(later, parts={**TRAINING.parts, "data": 4 * 300.0}, joules=(TRAINING.joules or 0) + 7200.0)
    window = later.since(TRAINING)
    assert (window.seconds, window.units, window.joules, window.began) == (240, 60_000, 7200.0, 3600)
    figures = use_figures([window])
    assert (figures["tokens_per_second"], figures["mfu"], figures["shares"]) == (1000.0, 20.0, {"data": 50.0})


def test_records_are_read_as_far_as_they_are_known(tmp_path: Path) -> None:
    TRAINING.write(tmp_path, "one")
    (tmp_path / FOLDER / "two.json").write_text(json.dumps({**asdict(TRAINING), "later": 1}))
    (tmp_path / FOLDER / "three.json").write_text('{"seconds": 1')
    assert read_use(tmp_path) == [TRAINING, TRAINING]
    assert run_figures(tmp_path)["gpu_hours"] == 8.0
    (tmp_path / "DONE").write_text(json.dumps({"use": {"gpu_hours": 9.0}}))
    assert run_figures(tmp_path) == {"gpu_hours": 9.0}
    assert run_figures(tmp_path / "none") == {}


def test_a_record_that_cannot_be_written_does_not_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("no folder")
    TRAINING.write(tmp_path, "one")
    assert read_use(tmp_path) == []


def test_text() -> None:
    text = ", ".join(use_text(use_figures([TRAINING], 2.5)))
    assert text == (
        "1,000 tokens/s (250 per GPU), MFU 40.0 %, GPUs busy 60 %, 20.0 GiB per GPU, 4 GPU-hours, 2 kWh, price 10.00, "
        "5 % start, 7.5 % data, 15 % evaluation, 5 % checkpoint"
    )
