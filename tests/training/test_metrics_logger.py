"""What `lmrc status` reads of a training: written at its first step, now and then, and at its end."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from lmrc.training import metrics_logger as module
from lmrc.training.metrics_logger import MetricsLogger


def step(logger: MetricsLogger, number: int) -> None:
    logger.log_step(number, 0, [0, 1], 0.5 / number, 1.0, 0.1, 40)


def progress(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "log" / "progress.json").read_text())
    return found


def test_progress_is_there_from_the_first_step_and_right_at_the_end(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path, 10, False, 30, "documents")
    before = time.time()
    step(logger, 11)
    first = progress(tmp_path)
    assert set(first) == {"step", "total", "epoch", "loss", "unit", "per_second", "seconds_left", "time"}
    assert (first["step"], first["total"], first["epoch"], first["unit"]) == (11, 30, 0, "documents")
    assert before <= first["time"] <= time.time()
    # 40 documents a step and 19 steps to go, at the speed of the only step: both figures tell the same.
    assert first["seconds_left"] * first["per_second"] == pytest.approx(19 * 40, rel=1e-3)
    step(logger, 12)
    assert progress(tmp_path) == first  # within five seconds
    logger.close()
    assert progress(tmp_path)["step"] == 12
    assert [path.name for path in (tmp_path / "log").iterdir()] == ["progress.json"]


def test_progress_follows_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_BETWEEN_PROGRESS", 0.0)
    logger = MetricsLogger(tmp_path, 0, False, 3, "tokens")
    for number in (1, 2, 3):
        step(logger, number)
        assert progress(tmp_path)["step"] == number
    assert progress(tmp_path)["seconds_left"] == 0
    logger.close()


def test_a_start_that_made_no_step_leaves_the_progress_of_the_one_before(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path, 0, False, 3, "tokens")
    step(logger, 1)
    logger.close()
    MetricsLogger(tmp_path, 1, False, 3, "tokens").close()
    assert progress(tmp_path)["step"] == 1


def test_a_disk_that_refuses_does_not_end_a_training(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path, 0, False, 3, "tokens")
    (tmp_path / "log" / "progress.tmp").mkdir()
    step(logger, 1)
    logger.close()
    assert not (tmp_path / "log" / "progress.json").exists()


@pytest.mark.parametrize("evaluation_due", [False, True])
def test_what_will_be_made_again_is_dropped(tmp_path: Path, evaluation_due: bool) -> None:
    logger = MetricsLogger(tmp_path, 0, False, 3, "tokens")
    for number in (1, 2, 3):
        step(logger, number)
        logger.log_eval(number, {"loss": 0.5}, "loss", True)
    logger.close()
    MetricsLogger(tmp_path, 2, evaluation_due, 3, "tokens").close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    kept = [(row["step"], "dev_loss" in row) for row in rows]
    assert kept == [(1, False), (1, True), (2, False), (2, True)][: 3 if evaluation_due else 4]
