"""A folder has one live holder."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.work import NfsFiles
from lmrc.common.errors import RunError
from lmrc.common.logging import set_up_logging
from lmrc.runs.heartbeat import Process
from lmrc.runs.lease import Lease, LeaseHeld, holder
from lmrc.runs.shared_fs import Files

FORK = multiprocessing.get_context("fork")


def leave_holder(folder: Path, age: float, generation: int = 1, **changes: object) -> None:
    """Write a holder's file as another process would, with a last heartbeat `age` seconds ago."""
    process = dataclasses.replace(Process.current(None), **changes)  # type: ignore[arg-type]
    path = folder / "lease" / f"holder-{generation:08d}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(process.content())
    os.utime(path, (time.time() - age, time.time() - age))


FOREIGN = {"host": "n7", "boot_id": "another", "pid": 12, "job": "4711"}


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


def test_a_second_launch_is_refused_and_names_the_holder(tmp_path: Path) -> None:
    with Lease(tmp_path), pytest.raises(LeaseHeld) as refused:
        Lease(tmp_path).acquire()
    sentence = str(refused.value)
    assert str(tmp_path) in sentence and f"process {os.getpid()} on " in sentence
    assert "last heartbeat 0 s ago" in sentence and "after 60 s" in sentence and "Wait" in sentence


def test_a_released_folder_is_free_at_once(tmp_path: Path) -> None:
    with Lease(tmp_path):
        assert holder(tmp_path)
    assert holder(tmp_path) is None
    with Lease(tmp_path):
        pass


def test_a_holder_on_another_host_is_replaced_only_after_the_lease(tmp_path: Path) -> None:
    leave_holder(tmp_path, age=50, **FOREIGN)
    with pytest.raises(LeaseHeld, match=r"process 12 on n7 \(SLURM job 4711\).* 5\d s ago"):
        Lease(tmp_path).acquire()
    seen = holder(tmp_path)
    assert seen and seen.process and seen.process.host == "n7"
    leave_holder(tmp_path, age=61, **FOREIGN)
    assert holder(tmp_path) is None
    with Lease(tmp_path):
        pass


def test_ages_do_not_depend_on_the_local_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_holder(tmp_path, age=5, **FOREIGN)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with pytest.raises(LeaseHeld):
        Lease(tmp_path).acquire()
    monkeypatch.setattr(time, "time", lambda: 1e11)
    with pytest.raises(LeaseHeld):
        Lease(tmp_path).acquire()


def test_a_killed_process_on_this_host_is_dead_at_once(tmp_path: Path) -> None:
    def hold() -> None:
        Lease(tmp_path).acquire()
        time.sleep(60)

    process = FORK.Process(target=hold)
    process.start()
    until(lambda: holder(tmp_path))
    process.kill()
    # Not reaped yet: a zombie is dead too.
    until(lambda: holder(tmp_path) is None)
    with Lease(tmp_path):
        pass
    process.join()


def test_a_reused_pid_is_dead(tmp_path: Path) -> None:
    leave_holder(tmp_path, age=0, start_ticks=1)
    assert holder(tmp_path) is None
    # A process in another PID namespace cannot be checked.
    leave_holder(tmp_path, age=0, start_ticks=1, pid_namespace="pid:[1]")
    assert holder(tmp_path)


def test_only_an_earlier_incarnation_of_the_same_job_is_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_holder(tmp_path, age=0, **FOREIGN)
    with pytest.raises(LeaseHeld):
        Lease(tmp_path, job="4711").acquire()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with pytest.raises(LeaseHeld):
        Lease(tmp_path, job="4712").acquire()
    with Lease(tmp_path, job="4711"):
        pass


def test_waits_for_a_lease_that_expires(tmp_path: Path) -> None:
    start = time.monotonic()
    leave_holder(tmp_path, age=0.2, **FOREIGN)
    with Lease(tmp_path, seconds=0.8, wait=60):
        assert time.monotonic() - start > 0.5


def contend(folder: Path, number: int, files: Files, start: float) -> None:
    time.sleep(max(0.0, start - time.monotonic()))
    try:
        Lease(folder, files=files).acquire()
    except LeaseHeld:
        outcome = "refused"
    else:
        outcome = "won"
    (folder / "outcome.tmp").with_suffix(f".{number}").write_text(outcome)
    (folder / f"outcome.{number}").rename(folder / f"outcome-{number}")
    time.sleep(60)  # the winner must stay alive while the others try


@pytest.mark.parametrize("files", [Files(), NfsFiles(delay=0.005, stale=0.5)], ids=["plain", "nfs"])
def test_exactly_one_of_eight_processes_takes_a_dead_lease(tmp_path: Path, files: Files) -> None:
    leave_holder(tmp_path, age=100, **FOREIGN)
    start = time.monotonic() + 0.3
    processes = [FORK.Process(target=contend, args=(tmp_path, number, files, start)) for number in range(8)]
    for process in processes:
        process.start()
    until(lambda: len(list(tmp_path.glob("outcome-*"))) == 8, 30)
    for process in processes:
        process.kill()
        process.join()
    outcomes = sorted(path.read_text() for path in tmp_path.glob("outcome-*"))
    assert outcomes == ["refused"] * 7 + ["won"]


def test_a_stale_listing_does_not_create_a_second_holder(tmp_path: Path) -> None:
    for generation in (1, 2):
        leave_holder(tmp_path, age=100, generation=generation, **FOREIGN)

    class Stale(Files):
        def names(self, folder: Path) -> list[str]:
            return ["holder-00000001"]

        def read(self, path: Path) -> tuple[bytes, float]:
            # The file is not visible yet: only the link fails.
            if path.name == "holder-00000002" and not self.tried:
                raise FileNotFoundError(path)
            return super().read(path)

        tried = False

        def link(self, source: Path, target: Path) -> bool:
            self.tried = True
            return super().link(source, target)

    with Lease(tmp_path), pytest.raises(LeaseHeld):
        Lease(tmp_path, files=Stale()).acquire()


def test_a_link_whose_nfs_reply_was_lost_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def twice(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr(os, "link", twice)
    with Lease(tmp_path):
        assert holder(tmp_path)


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(RunError, match="has no hard links"):
        Lease(tmp_path).acquire()


# Long enough for a busy machine to schedule the process.
SECONDS = 2.0


class RecordingLease:
    """A lease that records its loss."""

    def __init__(self, folder: Path, files: Files | None = None) -> None:
        self.lost = threading.Event()
        self.sentence = ""
        self.lease = Lease(folder, seconds=SECONDS, on_loss=self._note, files=files)

    def _note(self, sentence: str) -> None:
        self.sentence = sentence
        self.lost.set()


def test_a_takeover_is_noticed(tmp_path: Path) -> None:
    recording = RecordingLease(tmp_path)
    recording.lease.acquire()
    leave_holder(tmp_path, age=0, generation=2, **FOREIGN)
    assert recording.lost.wait(60)
    assert "process 12 on n7" in recording.sentence and recording.lease.lost
    recording.lease.release()
    seen = holder(tmp_path)
    assert seen and seen.process and seen.process.host == "n7"  # the other holder's lease is not released


def test_a_broken_file_system_is_noticed(tmp_path: Path) -> None:
    class Failing(Files):
        broken = False

        def touch(self, path: Path) -> float:
            if self.broken:
                raise OSError(5, "Input/output error")
            return super().touch(path)

    files = Failing()
    recording = RecordingLease(tmp_path, files)
    recording.lease.acquire()
    time.sleep(0.6)
    assert not recording.lost.is_set()
    files.broken = True
    assert recording.lost.wait(60)
    assert "Input/output error" in recording.sentence


def test_a_suspended_process_continues_if_nobody_took_over(tmp_path: Path) -> None:
    recording = RecordingLease(tmp_path)
    recording.lease.acquire()
    recording.lease._last -= 10  # as if the process had been stopped for ten seconds
    until(lambda: (tmp_path / "lease" / "holder-00000002").exists())
    with pytest.raises(LeaseHeld):
        Lease(tmp_path, seconds=SECONDS).acquire()
    recording.lease.release()
    assert not recording.lost.is_set()
    assert holder(tmp_path, SECONDS) is None


def test_a_lost_lease_ends_the_process(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def hold() -> None:
        set_up_logging("stderr")
        Lease(tmp_path, seconds=SECONDS).acquire()
        time.sleep(60)

    process = FORK.Process(target=hold)
    process.start()
    until(lambda: holder(tmp_path))
    leave_holder(tmp_path, age=0, generation=2, **FOREIGN)
    process.join(60)
    assert process.exitcode == 1
    assert "no longer holds its run" in capfd.readouterr().err


def test_a_live_holder_keeps_writing_heartbeats(tmp_path: Path) -> None:
    with Lease(tmp_path, seconds=SECONDS):
        time.sleep(1.5 * SECONDS)
        with pytest.raises(LeaseHeld):
            Lease(tmp_path, seconds=SECONDS).acquire()


def test_a_holder_file_is_json_with_the_keys_of_older_versions(tmp_path: Path) -> None:
    with Lease(tmp_path, job="7"):
        content = json.loads((tmp_path / "lease" / "holder-00000001").read_text())
    assert content["pid"] == os.getpid() and content["job"] == "7" and content["owner"]
    assert {"started", "boot", "space"} <= content.keys()
    assert Process.parse(json.dumps(content).encode()) is not None
