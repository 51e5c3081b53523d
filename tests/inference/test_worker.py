"""Workers that die, hang, stop or start late: no unit is lost, and none is written twice."""

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
from lmrc.config.schema import WorkOptions
from lmrc.inference.run_worker import UnitCounts, counts, work
from lmrc.runs.shared_fs import Files
from tests.inference.squares import OPTIONS, SHORT_LEASE, SquaresInference, fail_at, start, wait_until


def hang(folder: Path) -> Callable[[range], None]:
    """Return a function that blocks until the file `go` exists in the folder."""
    return lambda documents: wait_until((folder / "go").exists)


@pytest.mark.parametrize("files", [Files(), NfsFiles(delay=0.001, stale=0.4)], ids=["plain", "nfs"])
@pytest.mark.parametrize("seed", range(2))
def test_half_of_eight_workers_killed_at_random_moments(tmp_path: Path, files: Files, seed: int) -> None:
    chance = random.Random(seed)

    def wait_for_the_kills(documents: range) -> None:
        # Else, on a busy machine, all could be done before the kills, and nobody left if the merging worker is killed.
        if documents.start >= 200:
            wait_until((tmp_path / "killed").exists)

    inference = SquaresInference(400, tmp_path, wait_for_the_kills, seconds=0.05)
    workers = [start(tmp_path, inference, files=files, done=True) for _ in range(8)]
    for worker in chance.sample(workers, 4):
        time.sleep(chance.uniform(0.01, 0.1))
        worker.kill()
    (tmp_path / "killed").touch()
    for worker in workers:
        worker.join(60)
    survived = [worker.exitcode for worker in workers if worker.exitcode != -signal.SIGKILL]
    assert survived == [0, 0, 0, 0]
    assert inference.is_correct() and json.loads((tmp_path / "DONE").read_text()) == {"documents": 400}
    assert len((tmp_path / "merges").read_text().splitlines()) == 1
    # Only the current units of the dead workers may be computed again.
    computed = inference.computed()
    assert len(computed) - len(set(computed)) <= 4


def test_the_same_command_finishes_after_all_workers_were_killed_repeatedly(tmp_path: Path) -> None:
    inference = SquaresInference(200, tmp_path, seconds=0.01)
    # A unit may be unlucky in each of the four rounds, and a killed worker counts as an attempt.
    options = WorkOptions(docs_per_unit=4, attempts=5, lease_seconds=30)
    chance = random.Random(3)
    for _ in range(4):
        workers = [start(tmp_path, inference, options) for _ in range(2)]
        time.sleep(chance.uniform(0.05, 0.15))
        for worker in workers:
            worker.kill()
            worker.join()
    assert work(tmp_path, inference, options) == {"documents": 200}
    assert inference.is_correct()


def test_stop_releases_the_unit(tmp_path: Path) -> None:
    inference = SquaresInference(40, tmp_path)
    asked = [False, False, False, True]
    with pytest.raises(Interrupted, match="3 of 10 units done; the same command"):
        work(tmp_path, inference, OPTIONS, stop=lambda: asked.pop(0))
    assert counts(tmp_path) == UnitCounts(10, 3, 0, 0)
    assert not list((tmp_path / "units").glob("worker-*"))


def test_an_interrupted_unit_does_not_count_as_an_attempt(tmp_path: Path) -> None:
    inference = SquaresInference(4, tmp_path)

    def interrupted(documents: range) -> None:
        raise Interrupted

    inference.fault = interrupted
    for _ in range(5):
        with pytest.raises(Interrupted, match="0 of 1 units done"):
            work(tmp_path, inference, OPTIONS)
        assert counts(tmp_path) == UnitCounts(1, 0, 0, 0)
    inference.fault = fail_at()
    assert work(tmp_path, inference, OPTIONS) and inference.is_correct()


def test_an_idle_worker_claims_a_released_unit_at_once(tmp_path: Path) -> None:
    def interrupt(documents: range) -> None:
        time.sleep(0.3)
        raise Interrupted("TERM")

    first = start(tmp_path, SquaresInference(4, tmp_path, interrupt))
    wait_until(lambda: counts(tmp_path).claimed)
    inference = SquaresInference(4, tmp_path)
    begun = time.monotonic()
    assert work(tmp_path, inference, OPTIONS) and inference.is_correct()
    assert time.monotonic() - begun < OPTIONS.lease_seconds
    first.join()


def test_the_unit_of_a_hanging_worker_is_taken_over_and_its_late_part_dropped(tmp_path: Path) -> None:
    slow = start(tmp_path, SquaresInference(40, tmp_path, hang(tmp_path)), SHORT_LEASE)
    wait_until(lambda: counts(tmp_path).claimed)
    inference = SquaresInference(40, tmp_path, seconds=0.02)
    assert work(tmp_path, inference, SHORT_LEASE) == {"documents": 40}
    assert slow.is_alive()
    part = next(path for path in (tmp_path / "units").glob("claim-*.2")).name.replace("claim", "part")[:-2] + ".arrow"
    before = (tmp_path / "units" / part).stat().st_ino
    (tmp_path / "go").touch()
    slow.join(60)
    assert slow.exitcode == 0
    assert (tmp_path / "units" / part).stat().st_ino == before
    assert inference.is_correct() and len((tmp_path / "merges").read_text().splitlines()) == 1


def test_a_worker_that_is_late_ends_without_an_error_after_the_cleanup(tmp_path: Path) -> None:
    slow = start(tmp_path, SquaresInference(40, tmp_path, hang(tmp_path)), SHORT_LEASE)
    wait_until(lambda: counts(tmp_path).claimed)
    fast = start(tmp_path, SquaresInference(40, tmp_path, seconds=0.02), SHORT_LEASE, done=True)
    fast.join(60)
    (tmp_path / "go").touch()
    slow.join(60)
    assert (fast.exitcode, slow.exitcode) == (0, 0)
    # A worker that starts even later does nothing.
    inference = SquaresInference(40, tmp_path)
    assert work(tmp_path, inference, SHORT_LEASE) is None
    assert inference.is_correct() and not (tmp_path / "units").exists()


def test_a_suspended_worker_is_taken_for_dead(tmp_path: Path) -> None:
    suspended = start(tmp_path, SquaresInference(40, tmp_path, seconds=0.3), SHORT_LEASE)
    wait_until(lambda: counts(tmp_path).claimed)
    os.kill(suspended.pid or 0, signal.SIGSTOP)
    try:
        inference = SquaresInference(40, tmp_path)
        assert work(tmp_path, inference, SHORT_LEASE)
    finally:
        os.kill(suspended.pid or 0, signal.SIGCONT)
    suspended.join(60)
    assert suspended.exitcode == 0 and inference.is_correct()


def test_more_links_than_a_file_may_have(tmp_path: Path) -> None:
    class FewLinks(Files):
        def link(self, source: Path, target: Path) -> bool:
            if source.name.startswith("worker") and source.stat().st_nlink >= 4:
                raise OSError(31, "Too many links")
            return super().link(source, target)

    inference = SquaresInference(60, tmp_path)
    assert work(tmp_path, inference, OPTIONS, files=FewLinks()) and inference.is_correct()
    assert len(inference.computed()) == 15
