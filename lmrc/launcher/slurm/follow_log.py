"""Print a job's log while it runs (--follow)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from lmrc.launcher.slurm import commands as slurm

POLL_SECONDS = 2.0
# submitit's own log lines, which are not printed.
_SUBMITIT_PREFIX = "submitit "


class Tail:
    """Print complete new lines of a growing text file, which need not exist yet."""

    def __init__(self, path: Path, skip: bool = False) -> None:
        """Start at the end of the file if `skip`, else at its beginning."""
        self._path = path
        self._offset = path.stat().st_size if skip and path.exists() else 0

    def show(self) -> None:
        """Print the lines added since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                added = file.read()
        except FileNotFoundError:
            return
        whole = added[: added.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            if not line.startswith(_SUBMITIT_PREFIX):
                print(line)
        sys.stdout.flush()


def follow(path: Path, running: Callable[[], bool], seconds: float = POLL_SECONDS) -> None:
    """Print new lines of `path` until `running` returns False."""
    tail = Tail(path)
    while running():
        tail.show()
        time.sleep(seconds)
    tail.show()


def follow_job(identifier: str, folder: Path, is_array: bool) -> None:
    """Print the log of rank 0 (or of the first worker) until the job ends. Ctrl-C does not stop the job."""
    if is_array:
        identifier += "_0"
    path = folder / "log" / f"{identifier}_0_log.out"
    print(f"Following {path}; Ctrl-C does not stop the job.", flush=True)
    state = ""

    def running() -> bool:
        nonlocal state
        try:
            job = slurm.job(identifier)
        except slurm.SlurmError as error:
            print(f"({error}; retrying)", flush=True)
            return True
        if job is None:
            return False
        if job.state != state:
            state = job.state
            print(f"[job {identifier}: {state}{f', {job.reason}' if job.state == 'PENDING' else ''}]", flush=True)
        return job.is_active

    try:
        follow(path, running)
    except KeyboardInterrupt:
        print(f"\nThe job continues. To see it again: lmrc status {folder}   or: tail -F {path}")
