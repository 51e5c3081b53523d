"""Units that fail: tried again within bounds, the documents at fault named, all others done."""

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
from tests.inference.answers import OPTIONS, Answers, bad, quiet, start, until


def test_a_poison_document_is_named_and_stops_no_other(tmp_path: Path) -> None:
    answers = Answers(41, tmp_path, bad(17, 18, 40))
    with pytest.raises(UnitsFailed) as failed:
        work(tmp_path, answers, OPTIONS, progress=quiet)
    sentence = str(failed.value)
    assert "2 of 11 units failed, all others are done" in sentence
    assert "documents 16 to 19 (unit 4), 3 attempts" in sentence and "documents 40 to 40 (unit 10)" in sentence
    assert "document 17: ValueError: document 17 has no sentences;" in sentence and "document 18: " in sentence
    assert "document 16:" not in sentence and "at all" not in sentence
    assert "same command" in sentence
    assert counts(tmp_path) == UnitCounts(11, 9, 0, 2)
    assert not (tmp_path / "output").exists()
    assert answers.computed().count((16, 20)) == 3
    trace = json.loads((tmp_path / "units" / "error-00004.1.json").read_text())["traceback"]
    assert "Traceback" in trace and "at all" in trace


def test_repeating_tries_the_failed_units_again_and_only_those(tmp_path: Path) -> None:
    with pytest.raises(UnitsFailed):
        work(tmp_path, Answers(41, tmp_path, bad(17)), OPTIONS, progress=quiet)
    with pytest.raises(UnitsFailed, match="3 attempts: document 17"):
        work(tmp_path, Answers(41, tmp_path, bad(17)), OPTIONS, progress=quiet)
    (tmp_path / "computed").unlink()
    answers = Answers(41, tmp_path)
    assert work(tmp_path, answers, OPTIONS, progress=quiet)
    assert answers.right() and answers.computed() == [(16, 20)]


def test_within_a_submission_failed_units_stay_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(41, tmp_path, bad(17))
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "70")
    for job in ("71", "72"):
        with pytest.raises(UnitsFailed):
            work(tmp_path, answers, OPTIONS, job=job, progress=quiet)
    assert answers.computed().count((16, 20)) == 3


def test_an_error_that_passes_is_no_failure(tmp_path: Path) -> None:
    answers = Answers(41, tmp_path)
    failed = set()

    def trouble(documents: range) -> None:
        if documents.start % 3 == 0 and documents not in failed:
            failed.add(documents)
            raise OSError("the file system stumbled")

    answers.trouble = trouble
    assert work(tmp_path, answers, OPTIONS, progress=quiet)
    assert answers.right()


def test_a_document_that_kills_its_workers_is_found_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def deadly(documents: range) -> None:
        if 17 in documents:
            # Who comes when nobody is left alive begins a new round.
            until(lambda: len(list((tmp_path / "units").glob("worker-*"))) == 5)
            os._exit(9)

    workers = [start(tmp_path, Answers(60, tmp_path, deadly, seconds=0.02)) for _ in range(5)]
    for worker in workers:
        worker.join(60)
    assert sorted(worker.exitcode for worker in workers) == [1, 1, 9, 9, 9]
    told = capfd.readouterr().err
    assert re.search(r"documents 16 to 19 \(unit 4\), 3 attempts: document 17: process \d+ on .* died while it", told)
    assert work(tmp_path, Answers(60, tmp_path), OPTIONS, progress=quiet)


def test_one_worker_that_dies_and_comes_back_finds_it_out_too(tmp_path: Path) -> None:
    def deadly(documents: range) -> None:
        if 17 in documents:
            os._exit(9)

    codes = []
    for _ in range(4):
        worker = start(tmp_path, Answers(30, tmp_path, deadly))
        worker.join(60)
        codes.append(worker.exitcode)
    assert codes == [9, 9, 9, 1]
    assert Units(tmp_path, Files()).marked(4, 3) == 17


def test_a_worker_in_which_all_fails_stops_and_blames_no_unit(tmp_path: Path) -> None:
    answers = Answers(400, tmp_path)
    left = [3]

    def lost_gpu(documents: range) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("CUDA error: device lost")

    answers.trouble = lost_gpu
    with pytest.raises(WorkerFailed, match="CUDA error: device lost"):
        work(tmp_path, answers, OPTIONS, progress=quiet)
    assert len(answers.computed()) == 3 + MAX_FAILURES_IN_A_ROW + 1
    assert counts(tmp_path) == UnitCounts(100, 3, 0, 0)
    answers.trouble = bad()
    assert work(tmp_path, answers, OPTIONS, progress=quiet) and answers.right()


def test_many_poison_documents_in_a_row_are_not_the_workers_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FromTheStart(random.Random):
        """Begins where the poison is."""

        first = True

        def randrange(self, start: int, *rest: int) -> int:  # type: ignore[override]
            place = 0 if self.first else super().randrange(start, *rest)
            self.first = False
            return place

    monkeypatch.setattr("lmrc.inference.worker.random.Random", lambda seed: FromTheStart(1))
    answers = Answers(400, tmp_path, bad(*range(0, 40, 4)))
    with pytest.raises(UnitsFailed, match="10 of 100 units failed"):
        work(tmp_path, answers, OPTIONS, progress=quiet)


def test_a_mistake_in_the_config_is_the_users_at_once(tmp_path: Path) -> None:
    answers = Answers(40, tmp_path)

    def trouble(documents: range) -> None:
        raise ConfigError("no such model")

    answers.trouble = trouble
    with pytest.raises(ConfigError, match="no such model"):
        work(tmp_path, answers, OPTIONS, progress=quiet)
    assert counts(tmp_path) == UnitCounts(10, 0, 0, 0)


def test_too_few_rows_are_an_error_of_the_unit(tmp_path: Path) -> None:
    answers = Answers(8, tmp_path)
    answers.rows = lambda documents: []  # type: ignore[method-assign]
    with pytest.raises(UnitsFailed, match="0 rows came for"):
        work(tmp_path, answers, OPTIONS, progress=quiet)


def test_a_model_that_cannot_be_loaded_ends_the_worker_and_fails_no_unit(tmp_path: Path) -> None:
    answers = Answers(40, tmp_path)

    def load() -> None:
        answers.loads += 1
        raise UserError("the adapter does not fit the base")

    answers.load = load  # type: ignore[method-assign]
    with pytest.raises(UserError, match="the adapter does not fit the base"):
        work(tmp_path, answers, OPTIONS, progress=quiet)
    assert answers.loads == 1
    assert counts(tmp_path) == UnitCounts(10, 0, 0, 0)
    other = Answers(40, tmp_path)
    assert work(tmp_path, other, OPTIONS, progress=quiet) and other.right()


def test_the_model_is_loaded_once_and_only_to_compute(tmp_path: Path) -> None:
    answers = Answers(40, tmp_path)
    assert work(tmp_path, answers, OPTIONS, progress=quiet)
    assert answers.loads == 1
    # All units are done: whoever comes late merges without a model.
    assert work(tmp_path, answers, OPTIONS, progress=quiet)
    assert answers.loads == 1


def test_a_mistake_about_one_document_is_that_units_failure(tmp_path: Path) -> None:
    def trouble(documents: range) -> None:
        if 17 in documents:
            raise UserError("document 'x' needs 9 tokens")

    with pytest.raises(UnitsFailed, match=r"1 of 11 units failed.*\n.*document 17: UserError: document 'x' needs"):
        work(tmp_path, Answers(41, tmp_path, trouble), OPTIONS, progress=quiet)
    assert counts(tmp_path) == UnitCounts(11, 10, 0, 1)
