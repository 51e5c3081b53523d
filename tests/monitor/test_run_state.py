"""The progress of a run, read from its folder."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from lmrc.config.schema import ProposeConfig
from lmrc.runs.events import History
from tests.monitor.site import Site, card, look, make, progress, units

pytestmark = pytest.mark.usefixtures("nowhere")


def test_progress_and_best_score(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Site(monkeypatch, ("7", "RUNNING", "None", 0, "n1"))
    History(run).add("started", job="7", restart=0, hosts="n1")
    progress(run)
    rows = [
        {"step": 9, "loss": 1.0},
        {"step": 9, "dev_f1": 20.0},
        {"step": 20, "dev_f1": 30.0},
        {"step": 40, "dev_f1": 25.0},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 41, "dev_')
    status = look(run)
    assert (status.step, status.total, status.epoch, status.loss) == (40, 192, 2, 0.5)
    assert (status.unit, status.per_second, status.seconds_left) == ("documents", 38.0, 90.0)
    assert (status.metric, status.best, status.best_step) == ("f1", 30.0, 20)
    # The speed of an earlier start is not reported.
    progress(run, time=time.time() - 100)
    status = look(run)
    assert (status.step, status.per_second, status.seconds_left) == (40, None, None)


def test_lowest_loss_is_best(tmp_path: Path) -> None:
    run = make(tmp_path / "b", "rc")
    rows = [{"step": 5, "loss": 0.7, "epoch": 0}, {"step": 5, "dev_loss": 0.5}, {"step": 9, "dev_loss": 0.3}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status = look(run)
    assert (status.metric, status.best, status.best_step) == ("loss", 0.3, 9)
    assert (status.step, status.loss, status.total) == (5, 0.7, None)  # a run without progress.json


def test_units_of_an_inference(tmp_path: Path) -> None:
    run = make(tmp_path / "a", "propose")
    units(run, 10, 4, failed=1)
    status = look(run)
    assert status.units == {"total": 10, "done": 4, "claimed": 0, "failed": 1}
    assert status.failures == ["unit 4 (documents 16 to 19): ValueError: poison"]
    assert status.error == status.failures[0]
    assert (status.state, status.seconds_left) == ("dead", None)
    card(run)
    status = look(run)
    # A unit of four documents every ten seconds, and six units left.
    assert (status.state, status.unit) == ("running", "documents")
    assert status.per_second == pytest.approx(0.4)
    assert status.seconds_left == pytest.approx(60.0)


def test_remote_worker_is_alive_by_its_heartbeat(tmp_path: Path) -> None:
    run = make(tmp_path / "a", "propose")
    units(run, 10, 4)
    path = card(run, "elsewhere")
    assert (look(run).state, look(run).nodes) == ("running", "elsewhere")
    seconds = ProposeConfig().work.lease_seconds
    os.utime(path, (time.time() - seconds - 5,) * 2)
    assert look(run).state == "dead"


def test_idle_night_does_not_lower_the_speed(tmp_path: Path) -> None:
    run = make(tmp_path / "a", "propose")
    found = units(run, 20, 10)
    for unit in range(5):
        os.utime(found.path("part", unit, suffix=".arrow"), (1.0, 1.0))
    card(run)
    assert look(run).per_second == pytest.approx(0.4)
