"""All jobs of all runs, asked of SLURM at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lmrc.launcher.slurm import commands as slurm


@dataclass(frozen=True)
class Queue:
    """What SLURM said of all jobs at once: by id of the job, or of the whole array."""

    jobs: dict[str, list[slurm.SlurmJob]]
    silence: str
    """Why SLURM could not be asked; "" where it answered."""


def slurm_id(event: dict[str, Any]) -> str | None:
    """The SLURM job of an event in a history, of a worker that of its whole array; None of what ran without SLURM."""
    job = str(event.get("job") or "")
    return None if not job or job.startswith("local-") else job.partition("_")[0]


def ask_queue(wanted: set[str]) -> Queue:
    """What is known of these jobs: two calls at most, however many they are."""
    if not slurm.is_here():
        return Queue({}, "SLURM is not on this machine: of its jobs only what they wrote is known")
    found: dict[str, list[slurm.SlurmJob]] = {}
    try:
        for job in slurm.jobs(wanted):
            found.setdefault(job.id.partition("_")[0], []).append(job)
    except slurm.SlurmError as error:
        return Queue({}, f"SLURM does not answer ({error}): of its jobs only what they wrote is known")
    forgotten = wanted - found.keys()
    if forgotten:
        for job in _ended(forgotten):
            found.setdefault(job.id.partition("_")[0], []).append(job)
    return Queue(found, "")


def _ended(identifiers: set[str]) -> list[slurm.SlurmJob]:
    """What the accounting remembers of jobs that the controller has forgotten; nothing on a site without one."""
    columns = ("--noheader", "--parsable2", "--allocations", "--format=JobID,State,NodeList,Reason")
    try:
        text = slurm.ask("sacct", *columns, f"--jobs={','.join(sorted(identifiers))}")
    except slurm.SlurmError:
        return []
    rows = (line.split("|") for line in text.splitlines())
    # "CANCELLED by 1000"
    return [slurm.SlurmJob(row[0], row[1].split()[0], row[3], 0, row[2]) for row in rows if len(row) == 4 and row[1]]
