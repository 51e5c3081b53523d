from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from lmrc.training import metrics_logger as module
from lmrc.training.metrics_logger import PACE_SECONDS, MetricsLogger, _Pace
from lmrc.usage.record import Use


def log_step(logger: MetricsLogger, step: int) -> None:
    logger.log_step(step, 0, [0, 1], 0.5 / step, 1.0, 0.1, 40)


def progress(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "log" / "progress.json").read_text())
    return content


def test_progress_is_written_at_the_first_step_and_at_the_end(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path, 10, False, 30, "documents")
    before = time.time()
    log_step(logger, 11)
    first = progress(tmp_path)
    assert set(first) == {"step", "total", "epoch", "loss", "unit", "per_second", "seconds_left", "time"}
    assert (first["step"], first["total"], first["epoch"], first["unit"]) == (11, 30, 0, "documents")
    assert before <= first["time"] <= time.time()
    # 40 documents per step and 19 steps left, at the speed of the only step.
    assert first["seconds_left"] * first["per_second"] == pytest.approx(19 * 40, rel=1e-3)
    log_step(logger, 12)
    assert progress(tmp_path) == first  # within five seconds
    logger.close()
    assert progress(tmp_path)["step"] == 12
    assert [path.name for path in (tmp_path / "log").iterdir()] == ["progress.json"]


def test_progress_is_updated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_BETWEEN_PROGRESS", 0.0)
    logger = MetricsLogger(tmp_path, 0, False, 3, "tokens")
    for step in (1, 2, 3):
        log_step(logger, step)
        assert progress(tmp_path)["step"] == step
    assert progress(tmp_path)["seconds_left"] == 0
    logger.close()


def test_a_start_without_a_step_keeps_the_previous_progress(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path, 0, False, 3, "tokens")
    log_step(logger, 1)
    logger.close()
    MetricsLogger(tmp_path, 1, False, 3, "tokens").close()
    assert progress(tmp_path)["step"] == 1


def test_progress_that_cannot_be_written_does_not_end_the_training(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path, 0, False, 3, "tokens")
    (tmp_path / "log" / "progress.tmp").mkdir()
    log_step(logger, 1)
    logger.close()
    assert not (tmp_path / "log" / "progress.json").exists()


class MeterOfGpus:
    """A meter whose GPUs hold 3 GiB each."""

    def record(self, folder: Path) -> None:
        pass

    def window(self) -> Use:
        return Use(seconds=60.0, memory=3.0 * 2**30)


def test_a_line_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    logger = MetricsLogger(tmp_path, 0, False, 2, "tokens", meter=MeterOfGpus())  # type: ignore[arg-type]
    logger.log_step(1, 0, [0], 0.25, 0.5, 0.125, 40)
    logger.log_eval(1, {"f1": 50.0}, "f1", True)
    logger.log_step(2, 0, [1], 0.25, 0.5, 0.125, 40)
    logger.close()
    line = caplog.messages[-1]
    assert line.startswith("step 2/2 (epoch 1), loss 0.250, dev f1 50.00, gradient norm 0.12, learning rate 50 %, ")
    assert line.endswith(" tokens/s, 3.0 GiB per GPU, 0:00 left")


@pytest.mark.parametrize("evaluation_due", [False, True])
def test_a_resume_drops_lines_that_it_writes_again(tmp_path: Path, evaluation_due: bool) -> None:
    logger = MetricsLogger(tmp_path, 0, False, 3, "tokens")
    for step in (1, 2, 3):
        log_step(logger, step)
        logger.log_eval(step, {"loss": 0.5}, "loss", True)
    logger.close()
    MetricsLogger(tmp_path, 2, evaluation_due, 3, "tokens").close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    kept = [(row["step"], "dev_loss" in row) for row in rows]
    assert kept == [(1, False), (1, True), (2, False), (2, True)][: 3 if evaluation_due else 4]


def test_the_pace_forgets_a_pause() -> None:
    pace, now = _Pace(10, 0.0), 0.0
    for step in range(11, 20):
        now += 10.0
        assert pace.add(now, step, 40) == pytest.approx((4.0, 10.0))
    now += 1000.0
    speed, seconds_per_step = pace.add(now, 20, 40)
    assert speed < 1 and seconds_per_step > 100
    for step in range(21, 60):
        now += 10.0
        speed, seconds_per_step = pace.add(now, step, 40)
    assert (speed, seconds_per_step) == pytest.approx((4.0, 10.0))


def test_the_pace_of_fast_steps_keeps_few_samples() -> None:
    pace = _Pace(0, 0.0)
    for step in range(1, 100_001):
        speed, seconds_per_step = pace.add(step / 100, step, 1)
    assert (speed, seconds_per_step) == pytest.approx((100.0, 0.01))
    assert len(pace._samples) <= PACE_SECONDS + 2
