"""A scheduler that decides the order of all file operations of several workers, for tests.

The workers are threads that run `lmrc.inference.run_worker.work` on real files. Each waits before every operation that
others can see, until the scheduler lets it go on. So an execution is determined by its deviations from a plain
schedule, in which a worker runs until it sleeps. A deviation at an operation is one of these:

    switch   another worker goes on first
    crash    the worker is killed before the operation
    freeze   the worker stops, heartbeat included, until all others have ended
    stale    the operation returns what this NFS client saw before: an old listing, or a missing file
    error    the model fails (at a computation)
    stop     a signal asks to stop (at a computation)

`explore` runs all schedules with at most so many deviations, in the manner of CHESS (Musuvathi et al., OSDI 2008).
"""

from __future__ import annotations

import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lmrc.runs.shared_fs import Files

Deviations = dict[int, str]
# Possible at some operations only, which say so.
SPECIAL = ("stale", "error", "stop")
STALE = ("stale",)


class Crash(BaseException):
    """The worker is killed: no handler of it may still change a file."""


class ClientFiles(Files):
    """The file operations of one worker, as an NFS client whose cache may be old.

    Operations on hidden files are no choices: no other worker reads them.
    """

    def __init__(self, worker: SimulatedWorker, scheduler: Scheduler) -> None:
        self._worker, self._scheduler = worker, scheduler
        self._listings: dict[Path, list[str]] = {}
        self._missing: set[Path] = set()

    def names(self, folder: Path) -> list[str]:
        cached = self._listings.get(folder)
        now = sorted(os.listdir(folder)) if folder.exists() else []  # noqa: PTH208
        is_stale = self._scheduler.wait(self._worker, STALE if cached not in (None, now) else ()) == "stale"
        if is_stale and cached is not None:
            return cached
        self._listings[folder] = sorted(super().names(folder))
        return self._listings[folder]

    def read(self, path: Path) -> tuple[bytes, float]:
        is_stale = path in self._missing and path.exists()
        if self._scheduler.wait(self._worker, STALE if is_stale else ()) == "stale":
            raise FileNotFoundError(str(path))
        try:
            return super().read(path)
        except FileNotFoundError:
            self._missing.add(path)
            raise

    def touch(self, path: Path) -> float:
        self._wait_for(path)
        os.utime(path, (self._scheduler.clock, self._scheduler.clock))
        return self._scheduler.clock

    def write(self, path: Path, content: bytes) -> None:
        self._wait_for(path)
        path.write_bytes(content)
        os.utime(path, (self._scheduler.clock, self._scheduler.clock))
        self._changed(path)

    def link(self, source: Path, target: Path) -> bool:
        self._wait_for(target)
        self._changed(target)
        return super().link(source, target)

    def same(self, first: Path, second: Path) -> bool:
        self._wait_for(second)
        return super().same(first, second)

    def replace(self, source: Path, target: Path) -> None:
        self._wait_for(target)
        self._changed(target)
        super().replace(source, target)

    def remove(self, path: Path) -> None:
        self._wait_for(path)
        self._changed(path)
        super().remove(path)

    def compute(self) -> str:
        """Wait for the turn to compute a unit. Return "error" or "stop" if the computation must end so."""
        return self._scheduler.wait(self._worker, ("error", "stop"))

    def _wait_for(self, path: Path) -> None:
        if path.name.startswith("."):
            self._worker.check_alive()
        else:
            self._scheduler.wait(self._worker)

    def _changed(self, path: Path) -> None:
        """Drop what is cached of a folder, as an NFS client does that changes it."""
        self._listings.pop(path.parent, None)
        self._missing = {missing for missing in self._missing if missing.parent != path.parent}


@dataclass
class SimulatedWorker:
    """A worker in a thread.

    Attributes:
        beats: Heartbeats that run.
        is_frozen: True if neither the worker nor its heartbeats run.
        result: What its function returned.
        error: What its function raised.
    """

    name: str
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    beats: list[Callable[[], bool]] = field(default_factory=list)
    special: tuple[str, ...] = ()
    sleeps: bool = False
    is_frozen: bool = False
    is_crashed: bool = False
    has_ended: bool = False
    beats_now: bool = False
    result: Any = None
    error: BaseException | None = None

    def check_alive(self) -> None:
        if self.is_crashed:
            raise Crash


class Scheduler:
    """Runs workers one at a time, and deviates from the plain schedule at the given operations."""

    def __init__(self, deviations: Deviations, kinds: tuple[str, ...]) -> None:
        self.clock = 1_000_000.0
        self.workers: list[SimulatedWorker] = []
        self.choices: list[tuple[str, ...]] = []  # the possible deviations at each operation
        self.met: Counter[str] = Counter()  # the deviations that happened
        self._deviations, self._kinds = deviations, kinds
        self._back = threading.Semaphore(0)
        self._here = threading.local()
        self._identifiers = 0
        self._granted = ""

    # Called in the threads of workers.

    def wait(self, worker: SimulatedWorker, special: tuple[str, ...] = (), sleeps: bool = False) -> str:
        """Wait for the turn of a worker. Return the deviation of its operation, or an empty string."""
        if worker.beats_now:
            return ""
        worker.check_alive()
        worker.special, worker.sleeps = special, sleeps
        self._back.release()
        worker.go.acquire()
        worker.check_alive()
        return self._granted

    def sleep(self, seconds: float) -> None:
        worker: SimulatedWorker = self._here.worker
        worker.check_alive()
        self.clock += seconds
        for other in self.workers:
            self._beat(other)
        self.wait(worker, sleeps=True)

    def identifier(self) -> SimpleNamespace:
        """Return a stand-in for a UUID, the same in each execution with the same deviations."""
        self._identifiers += 1
        return SimpleNamespace(hex=f"{self._identifiers:012x}{0:020x}")

    def heartbeat(self, beat: Callable[[], bool], every: float) -> SimpleNamespace:
        """Return a stand-in for `Heartbeat`, which beats whenever the clock goes on."""
        worker: SimulatedWorker = self._here.worker
        worker.beats.append(beat)
        return SimpleNamespace(stop=lambda patience: worker.beats.remove(beat) if beat in worker.beats else None)

    def exit(self, code: int) -> None:
        """End the worker whose heartbeat runs, as `os._exit` does."""
        for worker in self.workers:
            if worker.beats_now:
                worker.is_crashed = True

    def _beat(self, worker: SimulatedWorker) -> None:
        if worker.is_frozen or worker.is_crashed or worker.has_ended:
            return
        worker.beats_now = True
        try:
            worker.beats = [beat for beat in list(worker.beats) if beat()]
        finally:
            worker.beats_now = False

    # Called in the main thread.

    def run(self, functions: list[Callable[[ClientFiles], Any]]) -> list[SimulatedWorker]:
        """Run a worker per function to its end, and return the workers."""
        started = [SimulatedWorker(f"worker {number}") for number in range(len(functions))]
        self.workers += started
        threads = []
        for worker, function in zip(started, functions, strict=True):
            threads.append(threading.Thread(target=self._body, args=(worker, function), daemon=True))
            threads[-1].start()
            self._back.acquire()
        current = started[0]
        while True:
            alive = [worker for worker in started if not worker.has_ended]
            if not alive:
                break
            able = [worker for worker in alive if not worker.is_frozen]
            for worker in alive if not able else []:
                worker.is_frozen = False
                self._beat(worker)  # its heartbeat finds out first that another process took over
            able = able or alive
            if current not in able:
                current = able[0]
            elif current.sleeps:
                current = able[(able.index(current) + 1) % len(able)]
            current = self._one_operation(current, able)
        for thread in threads:
            thread.join()
        return started

    def _one_operation(self, worker: SimulatedWorker, able: list[SimulatedWorker]) -> SimulatedWorker:
        possible = [
            kind
            for kind in self._kinds
            if (kind != "switch" or (len(able) > 1 and not worker.sleeps))
            and (kind not in SPECIAL or kind in worker.special)
            and (kind != "freeze" or len(able) > 1)
        ]
        deviation = self._deviations.get(len(self.choices), "")
        self.choices.append(tuple(possible))
        self.met.update([deviation] if deviation else [])
        if deviation == "switch":
            worker = able[(able.index(worker) + 1) % len(able)]
        if deviation == "freeze":
            worker.is_frozen = True
            return worker
        worker.is_crashed |= deviation == "crash"
        self._granted = deviation if deviation in SPECIAL else ""
        worker.sleeps = False
        worker.go.release()
        self._back.acquire()
        return worker

    def _body(self, worker: SimulatedWorker, function: Callable[[ClientFiles], Any]) -> None:
        self._here.worker = worker
        try:
            self.wait(worker)
            worker.result = function(ClientFiles(worker, self))
        except Crash:
            pass
        except BaseException as error:
            worker.error = error
        worker.has_ended = True
        self._back.release()


def simulate(patch: pytest.MonkeyPatch, scheduler: Scheduler) -> None:
    """Give the modules of the protocol the scheduler's clock, heartbeats, identifiers and exit."""
    from lmrc.inference import retries, work_units, worker
    from lmrc.runs import heartbeat, lease, shared_fs

    clock = SimpleNamespace(monotonic=lambda: scheduler.clock, sleep=scheduler.sleep)
    for module in (retries, work_units, worker, lease):
        patch.setattr(module, "time", clock)
    for module in (worker, lease):
        patch.setattr(module, "Heartbeat", scheduler.heartbeat)
    for module in (heartbeat, shared_fs, work_units):
        patch.setattr(module, "uuid", SimpleNamespace(uuid4=scheduler.identifier))
    patch.setattr(os, "_exit", scheduler.exit)


def explore(
    execute: Callable[[Scheduler], None], deviations: int, kinds: tuple[str, ...], folder: Path
) -> Iterator[Deviations]:
    """Run all schedules with at most so many deviations of these kinds. Yield the deviations of each.

    Args:
        execute: Run one schedule in `folder`, which is empty, and check the outcome.
    """
    waiting: list[Deviations] = [{}]
    while waiting:
        chosen = waiting.pop()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        scheduler = Scheduler(chosen, kinds)
        try:
            with pytest.MonkeyPatch.context() as patch:
                simulate(patch, scheduler)
                execute(scheduler)
        except BaseException as error:
            raise AssertionError(f"deviations {chosen} (operation: kind)") from error
        yield chosen
        if len(chosen) < deviations:
            first = max(chosen, default=-1) + 1
            waiting += [
                {**chosen, position: kind}
                for position in range(first, len(scheduler.choices))
                for kind in scheduler.choices[position]
            ]
