"""The use of the hardware that a training records: in metrics.jsonl once a minute, and in log/use/ for all attempts."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from lmrc.runs.signals import Preempted
from lmrc.training.trackers.jsonl import drop_repeated
from lmrc.usage import meter
from lmrc.usage.record import read_use, use_figures
from tests.training.test_trainer import Stopping, go, lines
from tests.training.toy import ToyTask

# 30 examples in 3 epochs of 10, of 1 to 3 rows each, and 100 FLOPs a row.
ROWS = 3 * sum(1 + index % 3 for index in range(10))


def test_documents_flops_and_parts_of_a_training(tmp_path: Path) -> None:
    go(tmp_path, ToyTask())
    (use,) = read_use(tmp_path)
    assert (use.unit, use.units, use.flops, use.processes, use.gpus) == ("documents", 30, 100.0 * ROWS, 1, 0)
    assert set(use.parts) == {"start", "data", "evaluation", "checkpoint"}
    assert sum(use.parts.values()) < use.seconds == pytest.approx(use.ended - use.began, abs=0.1)
    figures = use_figures([use])
    assert figures["documents_per_second"] > 0 and "mfu" not in figures and "gpu_hours" not in figures


def test_both_attempts_of_a_resumed_training_count(tmp_path: Path) -> None:
    with pytest.raises(Preempted):
        go(tmp_path, Stopping(5, signal.SIGTERM))
    assert [use.units for use in read_use(tmp_path)] == [18]  # steps of 4, 4, 2, 4 and 4 documents
    go(tmp_path, ToyTask())
    assert sum(use.units for use in read_use(tmp_path)) == 30


def test_figures_are_logged_each_minute_and_not_in_short_trainings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(tmp_path / "short", ToyTask())
    assert not any("use_" in name for row in lines(tmp_path / "short") for name in row)
    monkeypatch.setattr(meter, "SECONDS_BETWEEN_WINDOWS", 0.0)
    go(tmp_path / "long", ToyTask())
    rows = [row for row in lines(tmp_path / "long") if any("use_" in name for name in row)]
    assert [row["step"] for row in rows] == list(range(1, 10))
    assert all(row["use_documents_per_second"] > 0 for row in rows)
    assert all(row.keys().isdisjoint({"loss", "use_core_hours"}) for row in rows)
    # Only the steps' and the evaluations' rows are the same in every attempt.
    others = [row for row in lines(tmp_path / "long") if row not in rows]
    assert others == lines(tmp_path / "short")


def test_a_resume_drops_figures_of_repeated_steps(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": step, name: 1} for step in (2, 3) for name in ("loss", "use_mfu")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    drop_repeated(path, 2, False)
    assert [row["step"] for row in lines(tmp_path)] == [2, 2]
