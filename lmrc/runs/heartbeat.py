"""Process identity and heartbeat: who holds a lease or a work unit, and whether that process is alive.

A process writes its identity to a file and touches the file every quarter of the lease. The age of a heartbeat is the
difference of two times of the file server, so clocks of the hosts do not matter.
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

# Attributes of Process that have another name in its file.
_FILE_KEYS = {"start_ticks": "started", "boot_id": "boot", "pid_namespace": "space"}
_ATTRIBUTES = {key: attribute for attribute, key in _FILE_KEYS.items()}


@dataclass(frozen=True)
class Process:
    """Identity of a process, as processes on other hosts can check it.

    Attributes:
        owner: unique id of this holder; one process may be several holders, one after the other.
        host: hostname.
        pid: process id.
        start_ticks: clock ticks from boot to the start of the process. It tells apart two processes with one pid.
        boot_id: boot id of the host.
        pid_namespace: containers on one host do not see each other's processes.
        job: SLURM job id.
        restart: SLURM's restart count. Two incarnations of a job never run at once.
        submission: id of the job array, if the job is part of one, else of the job.
        time: UTC, for display.
    """

    owner: str
    host: str
    pid: int
    start_ticks: int | None
    boot_id: str
    pid_namespace: str
    job: str | None
    restart: int
    submission: str | None
    time: str

    @classmethod
    def current(cls, job: str | None) -> Process:
        """Return the identity of this process, with a new owner id."""
        return cls(
            owner=uuid.uuid4().hex,
            host=socket.gethostname(),
            pid=os.getpid(),
            start_ticks=_start_ticks(os.getpid()),
            boot_id=_boot_id(),
            pid_namespace=_pid_namespace(),
            job=job,
            restart=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
            submission=os.environ.get("SLURM_ARRAY_JOB_ID") or job,
            time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )

    @classmethod
    def parse(cls, content: bytes) -> Process | None:
        """Return the process that a file identifies; None if the file is damaged."""
        try:
            return cls(**{_ATTRIBUTES.get(key, key): value for key, value in json.loads(content).items()})
        except (ValueError, TypeError, AttributeError):
            return None

    def content(self) -> bytes:
        """Return the content of the file that identifies this process."""
        fields = {_FILE_KEYS.get(name, name): value for name, value in asdict(self).items()}
        return (json.dumps(fields) + "\n").encode()

    def is_dead(self, observer: Process) -> bool:
        """Return True if the observer knows, without waiting for the lease, that this process has ended."""
        if self.job is not None and self.job == observer.job and self.restart < observer.restart:
            return True
        here = (observer.host, observer.boot_id, observer.pid_namespace)
        if not self.boot_id or not self.pid_namespace or (self.host, self.boot_id, self.pid_namespace) != here:
            return False
        start_ticks = _start_ticks(self.pid)
        if start_ticks is not None:
            return start_ticks != self.start_ticks
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


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _start_ticks(pid: int) -> int | None:
    """Return the start time of a process, field 22 of /proc/PID/stat; -1 for a zombie, None if it is not visible."""
    try:
        # The second field is the program's name in brackets, and may contain spaces and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return -1 if fields[0] in "ZX" else int(fields[19])


class Heartbeat:
    """Thread that calls `beat` every `every` seconds until it returns False or `stop` is called."""

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
        """Start no further beat, and wait at most `patience` seconds for one that hangs in the file system."""
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(patience)
