"""Query SLURM once for all jobs of all runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lmrc.launcher.slurm import commands as slurm


@dataclass(frozen=True)
class Queue:
    """Jobs known to SLURM, by the id of the job or of the whole array.

    Attributes:
        error: why SLURM could not be queried; "" if it answered.
    """

    jobs: dict[str, list[slurm.SlurmJob]]
    error: str


def slurm_id(event: dict[str, Any]) -> str | None:
    """Return the SLURM job of an event, for an array task that of the array; None for a local process."""
    job = str(event.get("job") or "")
    return None if not job or job.startswith("local-") else job.partition("_")[0]


def ask_queue(wanted: set[str]) -> Queue:
    """Return what SLURM knows of these jobs, with at most one call of squeue and one of sacct."""
    if not slurm.is_available():
        return Queue({}, "SLURM is not installed on this machine: the state of its jobs is known only from their files")
    known: dict[str, list[slurm.SlurmJob]] = {}
    try:
        for job in slurm.jobs(wanted):
            known.setdefault(job.id.partition("_")[0], []).append(job)
    except slurm.SlurmError as error:
        return Queue({}, f"SLURM does not answer ({error}): the state of its jobs is known only from their files")
    forgotten = wanted - known.keys()
    if forgotten:
        for job in _ended_jobs(forgotten):
            known.setdefault(job.id.partition("_")[0], []).append(job)
    return Queue(known, "")


def _ended_jobs(identifiers: set[str]) -> list[slurm.SlurmJob]:
    """Return jobs that the controller has forgotten, from the accounting; none if the site has no accounting."""
    columns = ("--noheader", "--parsable2", "--allocations", "--format=JobID,State,NodeList,Reason")
    try:
        text = slurm.run_command("sacct", *columns, f"--jobs={','.join(sorted(identifiers))}")
    except slurm.SlurmError:
        return []
    rows = (line.split("|") for line in text.splitlines())
    # The state may be "CANCELLED by 1000".
    return [slurm.SlurmJob(row[0], row[1].split()[0], row[3], 0, row[2]) for row in rows if len(row) == 4 and row[1]]
