"""Showing a job's output while it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from lmrc.launcher.slurm import commands as slurm

SECONDS_BETWEEN_LOOKS = 2.0
# What submitit says of itself is in the file, not of interest on the way.
_NOISE = "submitit "


class Tail:
    """A growing text file, of which whole lines are shown as they come; it need not exist yet."""

    def __init__(self, path: Path, skip: bool = False) -> None:
        """With `skip` only what is added from now on is shown."""
        self._path = path
        self._place = path.stat().st_size if skip and path.exists() else 0

    def show(self) -> None:
        """Print what has been added."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._place)
                added = file.read()
        except FileNotFoundError:
            return
        whole = added[: added.rfind(b"\n") + 1]
        self._place += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            if not line.startswith(_NOISE):
                print(line)
        sys.stdout.flush()


def follow(path: Path, running: Callable[[], bool], seconds: float = SECONDS_BETWEEN_LOOKS) -> None:
    """Show `path` until `running` says no."""
    tail = Tail(path)
    while running():
        tail.show()
        time.sleep(seconds)
    tail.show()


def follow_job(identifier: str, folder: Path, is_array: bool) -> None:
    """Show the log of rank 0, or of the first worker, of a SLURM job until it has ended; Ctrl-C leaves it alone."""
    if is_array:
        identifier += "_0"
    path = folder / "log" / f"{identifier}_0_log.out"
    print(f"Following {path}; Ctrl-C leaves the job alone.", flush=True)
    state = ""

    def running() -> bool:
        nonlocal state
        try:
            job = slurm.job(identifier)
        except slurm.SlurmError as error:
            print(f"({error}; asking again)", flush=True)
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
        print(f"\nThe job goes on. Come back with: lmrc status {folder}   or: tail -F {path}")
