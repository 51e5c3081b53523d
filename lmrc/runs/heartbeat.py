"""Signs of life: which process holds something, and whether it still lives.

A process writes who it is into a file and touches it every quarter of the lease. Ages are differences of two times
that the file server gave, never of a local clock.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process of some machine, as others can find out about it."""

    owner: str
    """Unique to this holder; a process may have been several."""
    host: str
    pid: int
    started: int | None
    """Clock ticks from boot to its start: tells it from a later process of the same pid."""
    boot: str
    """Boot id of the machine."""
    space: str
    """PID namespace: containers of one machine do not see each other's processes."""
    job: str | None
    restart: int
    """How often SLURM has requeued the job: it never runs two incarnations of one."""
    submission: str | None
    """Job id of the whole array, where the job is part of one."""
    time: str
    """UTC, for people."""

    @classmethod
    def current(cls, job: str | None) -> Process:
        """This process, as a new owner."""
        return cls(
            owner=uuid.uuid4().hex,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=_started(os.getpid()),
            boot=_boot(),
            space=_space(),
            job=job,
            restart=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
            submission=os.environ.get("SLURM_ARRAY_JOB_ID") or job,
            time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )

    @classmethod
    def parse(cls, content: bytes) -> Process | None:
        """The process that a file tells of; None where it is unreadable."""
        try:
            return cls(**json.loads(content))
        except (ValueError, TypeError):
            return None

    def content(self) -> bytes:
        """What its file holds."""
        return (json.dumps(asdict(self)) + "\n").encode()

    def gone(self, observer: Process) -> bool:
        """Whether the observer can tell without waiting that this process has ended."""
        if self.job is not None and self.job == observer.job and self.restart < observer.restart:
            return True
        here = (observer.host, observer.boot, observer.space)
        if not self.boot or not self.space or (self.host, self.boot, self.space) != here:
            return False
        started = _started(self.pid)
        if started is not None:
            return started != self.started
        try:
            os.kill(self.pid, 0)  # /proc may hide the processes of other users
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False

    def __str__(self) -> str:
        job = f" (SLURM job {self.job})" if self.job else ""
        return f"process {self.pid} on {self.host}{job}"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _space() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """Field 22 of proc(5)'s stat; -1 of what is dead and not yet reaped by its parent; None where it is not shown."""
    try:
        # The second field is the program's name in brackets, and may hold both spaces and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return -1 if fields[0] in "ZX" else int(fields[19])


class Heartbeat:
    """Calls `beat` every `every` seconds in a thread of its own until it returns False or `stop`."""

    def __init__(self, beat: Callable[[], bool], every: float) -> None:
        self._beat, self._every = beat, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            if not self._beat():
                return

    def stop(self, patience: float) -> None:
        """No beat begins after this; one that hangs in the file system is waited for `patience` seconds at most."""
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(patience)
