"""Distributed inference loses nothing and writes nothing twice, whoever dies."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from benchmarks.work import NfsFiles
from lmrc.cluster.work import UnitCounts, UnitsFailed, clean, counts, work
from lmrc.cluster.work.files import Files
from lmrc.cluster.work.lease import Lease
from lmrc.cluster.work.unit_attempts import BROKEN, WorkerFailed
from lmrc.cluster.work.units import Units, encode
from lmrc.config import WorkOptions
from lmrc.errors import ConfigError, RunError
from lmrc.exits import Interrupted
from tests.conftest import ROOT

FORK = multiprocessing.get_context("fork")
OPTIONS = WorkOptions(unit_documents=4, lease_seconds=1.0)


class Answers:
    """A stage whose answer to a document is its square; `trouble` is called with every range before it is computed."""

    identity = "squares"
    schema = pa.schema([("document", pa.int64()), ("square", pa.int64())])

    def __init__(
        self, documents: int, out: Path, trouble: Callable[[range], None] = lambda documents: None, seconds: float = 0.0
    ) -> None:
        self.documents, self.out, self.trouble, self.seconds = documents, out, trouble, seconds

    def rows(self, documents: range) -> list[dict[str, Any]]:
        with (self.out / "computed").open("a") as file:
            file.write(f"{os.getpid()} {documents.start} {documents.stop}\n")
        self.trouble(documents)
        time.sleep(self.seconds)
        return [{"document": document, "square": document**2} for document in documents]

    def finish(self, rows: Iterator[dict[str, Any]]) -> dict[str, Any]:
        (self.out / "output").write_text("begun")
        (self.out / "output").write_text("".join(f"{row['document']} {row['square']}\n" for row in rows))
        with (self.out / "merges").open("a") as file:
            file.write(f"{os.getpid()}\n")
        return {"documents": self.documents}

    def computed(self) -> list[tuple[int, int]]:
        """The ranges that were asked for, in time."""
        lines = (self.out / "computed").read_text().splitlines()
        return [(int(line.split()[1]), int(line.split()[2])) for line in lines]

    def right(self) -> bool:
        """Whether the output is what one worker alone would write."""
        expected = "".join(f"{document} {document * document}\n" for document in range(self.documents))
        return (self.out / "output").read_text() == expected


def quiet(line: str) -> None:
    pass


def start(
    folder: Path, inference: Answers, options: WorkOptions = OPTIONS, files: Files | None = None, done: bool = False
) -> BaseProcess:
    """A worker in a process of its own; with `done` it writes DONE and cleans, as the launchers do."""

    def run() -> None:
        result = work(folder, inference, options, progress=quiet, files=files)
        if result and done:
            (folder / "DONE").write_text(json.dumps(result))
            clean(folder)

    process = FORK.Process(target=run)
    process.start()
    return process


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.01)


def test_one_worker_does_it_all(tmp_path: Path) -> None:
    answers = Answers(103, tmp_path)
    assert work(tmp_path, answers, OPTIONS, progress=quiet) == {"documents": 103}
    assert answers.right()
    assert sorted(answers.computed()) == [(start, min(start + 4, 103)) for start in range(0, 103, 4)]
    assert counts(tmp_path) == UnitCounts(26, 26, 0, 0)
    clean(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["computed", "merges", "output"]
    assert counts(tmp_path) == UnitCounts(0, 0, 0, 0)


def test_no_documents_are_merged_too(tmp_path: Path) -> None:
    assert work(tmp_path, Answers(0, tmp_path), OPTIONS, progress=quiet) == {"documents": 0}


@pytest.mark.parametrize("files", [Files(), NfsFiles(delay=0.001, stale=0.4)], ids=["plain", "nfs"])
@pytest.mark.parametrize("seed", range(2))
def test_half_of_eight_workers_killed_at_random_moments(tmp_path: Path, files: Files, seed: int) -> None:
    chance = random.Random(seed)
    answers = Answers(400, tmp_path, seconds=0.05)
    workers = [start(tmp_path, answers, files=files, done=True) for _ in range(8)]
    for worker in chance.sample(workers, 4):
        time.sleep(chance.uniform(0.01, 0.1))
        worker.kill()
    for worker in workers:
        worker.join(60)
    survived = [worker.exitcode for worker in workers if worker.exitcode != -signal.SIGKILL]
    assert len(survived) >= 4 and not any(survived)
    assert answers.right() and json.loads((tmp_path / "DONE").read_text()) == {"documents": 400}
    assert len((tmp_path / "merges").read_text().splitlines()) == 1
    # Only what the dead had in hand may be done again.
    computed = answers.computed()
    assert len(computed) - len(set(computed)) <= 4


def test_all_killed_again_and_again_the_same_command_finishes(tmp_path: Path) -> None:
    answers = Answers(200, tmp_path, seconds=0.01)
    chance = random.Random(3)
    for _ in range(4):
        workers = [start(tmp_path, answers) for _ in range(2)]
        time.sleep(chance.uniform(0.05, 0.15))
        for worker in workers:
            worker.kill()
            worker.join()
    assert work(tmp_path, answers, OPTIONS, progress=quiet) == {"documents": 200}
    assert answers.right()


def bad(*poison: int) -> Callable[[range], None]:
    def trouble(documents: range) -> None:
        for document in poison:
            if document in documents:
                raise ValueError(f"document {document} has no sentences\nat all")

    return trouble


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
    assert len(answers.computed()) == 3 + BROKEN + 1
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

    monkeypatch.setattr("lmrc.cluster.work.worker.random.Random", lambda seed: FromTheStart(1))
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


def test_stop_gives_the_unit_back(tmp_path: Path) -> None:
    answers = Answers(40, tmp_path)
    asked = [False, False, False, True]
    with pytest.raises(Interrupted, match="3 of 10 units done; the same command"):
        work(tmp_path, answers, OPTIONS, stop=lambda: asked.pop(0), progress=quiet)
    assert counts(tmp_path) == UnitCounts(10, 3, 0, 0)
    assert not list((tmp_path / "units").glob("worker-*"))


def test_a_signal_in_the_middle_of_a_unit_costs_no_attempt(tmp_path: Path) -> None:
    answers = Answers(4, tmp_path)

    def interrupted(documents: range) -> None:
        raise Interrupted

    answers.trouble = interrupted
    for _ in range(5):
        with pytest.raises(Interrupted, match="0 of 1 units done"):
            work(tmp_path, answers, OPTIONS, progress=quiet)
        assert counts(tmp_path) == UnitCounts(1, 0, 0, 0)
    answers.trouble = bad()
    assert work(tmp_path, answers, OPTIONS, progress=quiet) and answers.right()


def test_a_unit_given_back_is_taken_at_once_by_one_that_waits(tmp_path: Path) -> None:
    def interrupt(documents: range) -> None:
        time.sleep(0.3)
        raise Interrupted("TERM")

    first = start(tmp_path, Answers(4, tmp_path, interrupt))
    until(lambda: counts(tmp_path).claimed)
    answers = Answers(4, tmp_path)
    begun = time.monotonic()
    options = WorkOptions(unit_documents=4, lease_seconds=60)
    assert work(tmp_path, answers, options, progress=quiet) and answers.right()
    assert time.monotonic() - begun < 5
    first.join()


def test_a_hung_worker_is_overtaken_and_its_late_part_dropped(tmp_path: Path) -> None:
    options = WorkOptions(unit_documents=4, lease_seconds=0.5)
    slow = start(tmp_path, Answers(40, tmp_path, seconds=3.0), options)
    until(lambda: counts(tmp_path).claimed)
    answers = Answers(40, tmp_path, seconds=0.02)
    begun = time.monotonic()
    assert work(tmp_path, answers, options, progress=quiet) == {"documents": 40}
    assert time.monotonic() - begun < 2.5 and slow.is_alive()
    part = next(path for path in (tmp_path / "units").glob("claim-*.2")).name.replace("claim", "part")[:-2] + ".arrow"
    before = (tmp_path / "units" / part).stat().st_ino
    slow.join(20)
    assert slow.exitcode == 0
    assert (tmp_path / "units" / part).stat().st_ino == before
    assert answers.right() and len((tmp_path / "merges").read_text().splitlines()) == 1


def test_a_late_worker_finds_everything_cleaned_away_and_is_content(tmp_path: Path) -> None:
    options = WorkOptions(unit_documents=4, lease_seconds=0.5)
    slow = start(tmp_path, Answers(40, tmp_path, seconds=3.0), options)
    until(lambda: counts(tmp_path).claimed)
    fast = start(tmp_path, Answers(40, tmp_path, seconds=0.02), options, done=True)
    fast.join(20)
    slow.join(20)
    assert (fast.exitcode, slow.exitcode) == (0, 0)
    # One that starts even later does nothing either.
    answers = Answers(40, tmp_path)
    assert work(tmp_path, answers, options, progress=quiet) is None
    assert answers.right() and not (tmp_path / "units").exists()


def test_a_suspended_worker_is_taken_for_dead(tmp_path: Path) -> None:
    suspended = start(tmp_path, Answers(40, tmp_path, seconds=0.3))
    until(lambda: counts(tmp_path).claimed)
    os.kill(suspended.pid or 0, signal.SIGSTOP)
    try:
        answers = Answers(40, tmp_path)
        assert work(tmp_path, answers, OPTIONS, progress=quiet)
    finally:
        os.kill(suspended.pid or 0, signal.SIGCONT)
    suspended.join(20)
    assert suspended.exitcode == 0 and answers.right()


def test_other_work_in_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        work(tmp_path, Answers(40, tmp_path), OPTIONS, stop=lambda: True, progress=quiet)
    with pytest.raises(RunError, match=r"documents \(was 40, now 41\); units \(was 10, now 11\)\. Give the same"):
        work(tmp_path, Answers(41, tmp_path), OPTIONS, progress=quiet)
    with pytest.raises(RunError, match=r"unit_documents \(was 4, now 5\)"):
        work(tmp_path, Answers(40, tmp_path), WorkOptions(unit_documents=5), progress=quiet)


def test_torn_temporary_files_are_not_parts_and_a_damaged_part_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "units"
    folder.mkdir()
    (folder / ".part-00003.arrow.0123456789ab.tmp").write_bytes(b"ARROW1\0\0torn")
    answers = Answers(40, tmp_path)
    with pytest.raises(Interrupted):
        work(tmp_path, answers, OPTIONS, stop=lambda: len(list(folder.glob("part-*"))) == 10, progress=quiet)
    damaged = folder / "part-00003.arrow"
    content = damaged.read_bytes()
    three_rows = encode([{"document": document, "square": document**2} for document in range(12, 15)], Answers.schema)
    for wrong in (content[:100], (folder / "part-00004.arrow").read_bytes()[:-1], b"", three_rows):
        damaged.write_bytes(wrong)
        with pytest.raises(RunError, match=r"part-00003\.arrow is damaged .* remove it and repeat"):
            work(tmp_path, answers, OPTIONS, progress=quiet)
    damaged.unlink()
    assert work(tmp_path, answers, OPTIONS, progress=quiet) and answers.right()


def test_the_merge_is_left_to_the_one_that_is_at_it_and_done_again_if_that_died(tmp_path: Path) -> None:
    answers = Answers(40, tmp_path)
    told: list[str] = []
    with Lease(tmp_path / "units" / "merge"):
        assert work(tmp_path, answers, OPTIONS, progress=told.append) is None
    assert "merges them" in told[-1]
    finish = answers.finish

    def die(rows: Iterator[dict[str, Any]]) -> dict[str, Any]:
        next(rows)
        (tmp_path / "output").write_text("half")
        os._exit(9)

    answers.finish = die  # type: ignore[method-assign]
    dying = start(tmp_path, answers)
    dying.join()
    assert dying.exitcode == 9
    answers.finish = finish  # type: ignore[method-assign]
    assert work(tmp_path, answers, OPTIONS, progress=quiet) and answers.right()


def test_merged_once_though_the_merger_died_before_done(tmp_path: Path) -> None:
    answers = Answers(40, tmp_path)
    for _ in range(3):
        assert work(tmp_path, answers, OPTIONS, progress=quiet) == {"documents": 40}
    assert len((tmp_path / "merges").read_text().splitlines()) == 1


def test_done_and_cleaned_away_between_the_last_unit_and_the_merge(tmp_path: Path) -> None:
    class Overtaken(Files):
        """Another worker ends the run at the n-th operation that concerns the merge."""

        def __init__(self, operation: int) -> None:
            self.left = operation

        def write(self, path: Path, content: bytes) -> None:
            self._maybe(path)
            super().write(path, content)

        def read(self, path: Path) -> tuple[bytes, float]:
            self._maybe(path)
            return super().read(path)

        def link(self, source: Path, target: Path) -> bool:
            self._maybe(target)
            return super().link(source, target)

        def names(self, folder: Path) -> list[str]:
            self._maybe(folder)
            return super().names(folder)

        def _maybe(self, path: Path) -> None:
            if "merge" in str(path):
                self.left -= 1
                if self.left == 0:
                    folder = next(parent for parent in path.parents if parent.name == "units").parent
                    (folder / "DONE").write_text("{}")
                    clean(folder)

    for operation in range(1, 6):
        folder = tmp_path / str(operation)
        folder.mkdir()
        files = Overtaken(operation)
        assert work(folder, Answers(8, folder), OPTIONS, progress=quiet, files=files) is None, operation
        assert files.left <= 0 and not (folder / "units").exists() and not (folder / "output").exists()


def test_a_stage_that_leaves_rows_out_is_caught(tmp_path: Path) -> None:
    answers = Answers(40, tmp_path)
    answers.finish = lambda rows: {"first": next(rows)["document"]}  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="1 of 40 rows"):
        work(tmp_path, answers, OPTIONS, progress=quiet)


def test_too_few_rows_are_an_error_of_the_unit(tmp_path: Path) -> None:
    answers = Answers(8, tmp_path)
    answers.rows = lambda documents: []  # type: ignore[method-assign]
    with pytest.raises(UnitsFailed, match="0 rows came for"):
        work(tmp_path, answers, OPTIONS, progress=quiet)


def test_a_full_disk_is_a_sentence_and_loses_nothing(tmp_path: Path) -> None:
    class Full(Files):
        def write(self, path: Path, content: bytes) -> None:
            if "part" in path.name and len(list(path.parent.glob("part-*"))) == 5:
                raise OSError(28, "No space left on device")
            super().write(path, content)

    answers = Answers(40, tmp_path)
    with pytest.raises(RunError, match="No space left on device; free space"):
        work(tmp_path, answers, OPTIONS, progress=quiet, files=Full())
    assert counts(tmp_path) == UnitCounts(10, 5, 0, 0)
    assert work(tmp_path, answers, OPTIONS, progress=quiet) and answers.right()


def test_more_names_than_a_file_may_have(tmp_path: Path) -> None:
    class Few(Files):
        def link(self, source: Path, target: Path) -> bool:
            if source.name.startswith("worker") and source.stat().st_nlink >= 4:
                raise OSError(31, "Too many links")
            return super().link(source, target)

    answers = Answers(60, tmp_path)
    assert work(tmp_path, answers, OPTIONS, progress=quiet, files=Few()) and answers.right()
    assert len(answers.computed()) == 15


def test_needs_no_torch() -> None:
    code = "import sys, lmrc.cluster.work; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
