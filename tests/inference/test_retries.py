"""Units that fail are retried a limited number of times, their documents at fault are named, all others are done."""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path

import pytest

from lmrc.common.errors import ConfigError, UserError
from lmrc.inference.retries import MAX_FAILURES_IN_A_ROW, WorkerFailed
from lmrc.inference.run_worker import UnitCounts, UnitsFailed, counts, work
from lmrc.inference.work_units import Units
from lmrc.runs.shared_fs import Files
from tests.inference.squares import OPTIONS, SquaresInference, fail_at, start, wait_until


def test_a_document_that_fails_is_named_and_stops_no_other(tmp_path: Path) -> None:
    inference = SquaresInference(41, tmp_path, fail_at(17, 18, 40))
    with pytest.raises(UnitsFailed) as failed:
        work(tmp_path, inference, OPTIONS)
    message = str(failed.value)
    assert "2 of 11 units failed, all others are done" in message
    assert "documents 16 to 19 (unit 4), 3 attempts" in message and "documents 40 to 40 (unit 10)" in message
    assert "document 17: ValueError: document 17 has no sentences;" in message and "document 18: " in message
    assert "document 16:" not in message and "at all" not in message
    assert "same command" in message
    assert counts(tmp_path) == UnitCounts(11, 9, 0, 2)
    assert not (tmp_path / "output").exists()
    assert inference.computed().count((16, 20)) == 3
    trace = json.loads((tmp_path / "units" / "error-00004.1.json").read_text())["traceback"]
    assert "Traceback" in trace and "at all" in trace


def test_repeating_the_command_retries_only_the_failed_units(tmp_path: Path) -> None:
    with pytest.raises(UnitsFailed):
        work(tmp_path, SquaresInference(41, tmp_path, fail_at(17)), OPTIONS)
    with pytest.raises(UnitsFailed, match="3 attempts: document 17"):
        work(tmp_path, SquaresInference(41, tmp_path, fail_at(17)), OPTIONS)
    (tmp_path / "computed").unlink()
    inference = SquaresInference(41, tmp_path)
    assert work(tmp_path, inference, OPTIONS)
    assert inference.is_correct() and inference.computed() == [(16, 20)]


def test_failed_units_stay_failed_within_a_submission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inference = SquaresInference(41, tmp_path, fail_at(17))
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "70")
    for job in ("71", "72"):
        with pytest.raises(UnitsFailed):
            work(tmp_path, inference, OPTIONS, job=job)
    assert inference.computed().count((16, 20)) == 3


def test_a_transient_error_is_retried(tmp_path: Path) -> None:
    inference = SquaresInference(41, tmp_path)
    failed = set()

    def fault(documents: range) -> None:
        if documents.start % 3 == 0 and documents not in failed:
            failed.add(documents)
            raise OSError("the file system stumbled")

    inference.fault = fault
    assert work(tmp_path, inference, OPTIONS)
    assert inference.is_correct()


def test_a_document_that_kills_its_workers_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def deadly(documents: range) -> None:
        if 17 in documents:
            # A worker that starts when no other is alive would retry failed units, so all five start first.
            wait_until(lambda: len(list((tmp_path / "units").glob("worker-*"))) == 5)
            os._exit(9)

    workers = [start(tmp_path, SquaresInference(60, tmp_path, deadly, seconds=0.02)) for _ in range(5)]
    for worker in workers:
        worker.join(60)
    assert sorted(worker.exitcode for worker in workers) == [1, 1, 9, 9, 9]
    messages = capfd.readouterr().err
    assert re.search(
        r"documents 16 to 19 \(unit 4\), 3 attempts: document 17: process \d+ on .* died while it", messages
    )
    assert work(tmp_path, SquaresInference(60, tmp_path), OPTIONS)


def test_one_worker_that_restarts_after_each_death_names_it_too(tmp_path: Path) -> None:
    def deadly(documents: range) -> None:
        if 17 in documents:
            os._exit(9)

    codes = []
    for _ in range(4):
        worker = start(tmp_path, SquaresInference(30, tmp_path, deadly))
        worker.join(60)
        codes.append(worker.exitcode)
    assert codes == [9, 9, 9, 1]
    assert Units(tmp_path, Files()).marked(4, 3) == 17


def test_a_worker_in_which_everything_fails_stops_and_its_failures_do_not_count(tmp_path: Path) -> None:
    inference = SquaresInference(400, tmp_path)
    left = [3]

    def lost_gpu(documents: range) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("CUDA error: device lost")

    inference.fault = lost_gpu
    with pytest.raises(WorkerFailed, match="CUDA error: device lost"):
        work(tmp_path, inference, OPTIONS)
    assert len(inference.computed()) == 3 + MAX_FAILURES_IN_A_ROW + 1
    assert counts(tmp_path) == UnitCounts(100, 3, 0, 0)
    inference.fault = fail_at()
    assert work(tmp_path, inference, OPTIONS) and inference.is_correct()


def test_many_failing_documents_in_a_row_do_not_stop_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StartAtZero(random.Random):
        """A generator whose first number is 0, so that the worker starts at the failing documents."""

        first = True

        def randrange(self, start: int, *rest: int) -> int:  # type: ignore[override]
            value = 0 if self.first else super().randrange(start, *rest)
            self.first = False
            return value

    monkeypatch.setattr("lmrc.inference.worker.random.Random", lambda seed: StartAtZero(1))
    inference = SquaresInference(400, tmp_path, fail_at(*range(0, 40, 4)))
    with pytest.raises(UnitsFailed, match="10 of 100 units failed"):
        work(tmp_path, inference, OPTIONS)


def test_an_error_in_the_config_ends_the_worker_at_once(tmp_path: Path) -> None:
    inference = SquaresInference(40, tmp_path)

    def fault(documents: range) -> None:
        raise ConfigError("no such model")

    inference.fault = fault
    with pytest.raises(ConfigError, match="no such model"):
        work(tmp_path, inference, OPTIONS)
    assert counts(tmp_path) == UnitCounts(10, 0, 0, 0)


def test_too_few_rows_are_a_failure_of_the_unit(tmp_path: Path) -> None:
    inference = SquaresInference(8, tmp_path)
    inference.rows = lambda documents: []  # type: ignore[method-assign]
    with pytest.raises(UnitsFailed, match="0 rows came for"):
        work(tmp_path, inference, OPTIONS)


def test_a_model_that_cannot_be_loaded_ends_the_worker_and_fails_no_unit(tmp_path: Path) -> None:
    inference = SquaresInference(40, tmp_path)

    def load() -> None:
        inference.loads += 1
        raise UserError("the adapter does not fit the base")

    inference.load = load  # type: ignore[method-assign]
    with pytest.raises(UserError, match="the adapter does not fit the base"):
        work(tmp_path, inference, OPTIONS)
    assert inference.loads == 1
    assert counts(tmp_path) == UnitCounts(10, 0, 0, 0)
    other = SquaresInference(40, tmp_path)
    assert work(tmp_path, other, OPTIONS) and other.is_correct()


def test_the_model_is_loaded_once_and_only_to_compute(tmp_path: Path) -> None:
    inference = SquaresInference(40, tmp_path)
    assert work(tmp_path, inference, OPTIONS)
    assert inference.loads == 1
    # All units are done, so a late worker merges without a model.
    assert work(tmp_path, inference, OPTIONS)
    assert inference.loads == 1


def test_a_user_error_about_one_document_is_a_failure_of_its_unit(tmp_path: Path) -> None:
    def fault(documents: range) -> None:
        if 17 in documents:
            raise UserError("document 'x' needs 9 tokens")

    with pytest.raises(UnitsFailed, match=r"1 of 11 units failed.*\n.*document 17: UserError: document 'x' needs"):
        work(tmp_path, SquaresInference(41, tmp_path, fault), OPTIONS)
    assert counts(tmp_path) == UnitCounts(11, 10, 0, 1)
