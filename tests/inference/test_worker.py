"""Workers that die, hang, are stopped or come late: nothing is lost, nothing is written twice."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.work import NfsFiles
from lmrc.common.exit_codes import Interrupted
from lmrc.inference.run_worker import UnitCounts, counts, work
from lmrc.runs.shared_fs import Files
from tests.inference.answers import IMPATIENT, OPTIONS, Answers, bad, quiet, start, until


def hang(folder: Path) -> Callable[[range], None]:
    """A trouble that lasts until `folder`/go is there."""
    return lambda documents: until((folder / "go").exists)


@pytest.mark.parametrize("files", [Files(), NfsFiles(delay=0.001, stale=0.4)], ids=["plain", "nfs"])
@pytest.mark.parametrize("seed", range(2))
def test_half_of_eight_workers_killed_at_random_moments(tmp_path: Path, files: Files, seed: int) -> None:
    chance = random.Random(seed)

    def wait_for_the_killing(documents: range) -> None:
        # On a busy machine all could be done before, and the others gone when the one that merges is killed.
        if documents.start >= 200:
            until((tmp_path / "killed").exists)

    answers = Answers(400, tmp_path, wait_for_the_killing, seconds=0.05)
    workers = [start(tmp_path, answers, files=files, done=True) for _ in range(8)]
    for worker in chance.sample(workers, 4):
        time.sleep(chance.uniform(0.01, 0.1))
        worker.kill()
    (tmp_path / "killed").touch()
    for worker in workers:
        worker.join(60)
    survived = [worker.exitcode for worker in workers if worker.exitcode != -signal.SIGKILL]
    assert survived == [0, 0, 0, 0]
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
    assert work(tmp_path, answers, OPTIONS, progress=quiet) and answers.right()
    assert time.monotonic() - begun < OPTIONS.lease_seconds
    first.join()


def test_a_hung_worker_is_overtaken_and_its_late_part_dropped(tmp_path: Path) -> None:
    slow = start(tmp_path, Answers(40, tmp_path, hang(tmp_path)), IMPATIENT)
    until(lambda: counts(tmp_path).claimed)
    answers = Answers(40, tmp_path, seconds=0.02)
    assert work(tmp_path, answers, IMPATIENT, progress=quiet) == {"documents": 40}
    assert slow.is_alive()
    part = next(path for path in (tmp_path / "units").glob("claim-*.2")).name.replace("claim", "part")[:-2] + ".arrow"
    before = (tmp_path / "units" / part).stat().st_ino
    (tmp_path / "go").touch()
    slow.join(60)
    assert slow.exitcode == 0
    assert (tmp_path / "units" / part).stat().st_ino == before
    assert answers.right() and len((tmp_path / "merges").read_text().splitlines()) == 1


def test_a_late_worker_finds_everything_cleaned_away_and_is_content(tmp_path: Path) -> None:
    slow = start(tmp_path, Answers(40, tmp_path, hang(tmp_path)), IMPATIENT)
    until(lambda: counts(tmp_path).claimed)
    fast = start(tmp_path, Answers(40, tmp_path, seconds=0.02), IMPATIENT, done=True)
    fast.join(60)
    (tmp_path / "go").touch()
    slow.join(60)
    assert (fast.exitcode, slow.exitcode) == (0, 0)
    # One that starts even later does nothing either.
    answers = Answers(40, tmp_path)
    assert work(tmp_path, answers, IMPATIENT, progress=quiet) is None
    assert answers.right() and not (tmp_path / "units").exists()


def test_a_suspended_worker_is_taken_for_dead(tmp_path: Path) -> None:
    suspended = start(tmp_path, Answers(40, tmp_path, seconds=0.3), IMPATIENT)
    until(lambda: counts(tmp_path).claimed)
    os.kill(suspended.pid or 0, signal.SIGSTOP)
    try:
        answers = Answers(40, tmp_path)
        assert work(tmp_path, answers, IMPATIENT, progress=quiet)
    finally:
        os.kill(suspended.pid or 0, signal.SIGCONT)
    suspended.join(60)
    assert suspended.exitcode == 0 and answers.right()


def test_more_names_than_a_file_may_have(tmp_path: Path) -> None:
    class Few(Files):
        def link(self, source: Path, target: Path) -> bool:
            if source.name.startswith("worker") and source.stat().st_nlink >= 4:
                raise OSError(31, "Too many links")
            return super().link(source, target)

    answers = Answers(60, tmp_path)
    assert work(tmp_path, answers, OPTIONS, progress=quiet, files=Few()) and answers.right()
    assert len(answers.computed()) == 15
