"""SLURM commands (squeue, sinfo, scontrol, sacct) and the parsers of their output."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

# Long enough for a controller that is restarting.
COMMAND_TIMEOUT_SECONDS = 30.0
# SLURM states (squeue, sacct) in which a job has not ended.
ACTIVE_STATES = frozenset(
    {"PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "REQUEUED", "RESIZING", "SIGNALING", "STAGE_OUT"}
)
# SLURM's reason for a pending job whose dependency failed; kept after SLURM cancels the job.
DEPENDENCY_NEVER_SATISFIED = "DependencyNeverSatisfied"


class SlurmError(Exception):
    """A SLURM command failed. The message is the command's own error."""


@dataclass(frozen=True, slots=True)
class SlurmJob:
    """A job, or one task of an array (`id` is then ARRAY_TASK)."""

    id: str
    state: str
    reason: str
    restarts: int
    nodes: str

    @property
    def is_active(self) -> bool:
        """Return True if the job is pending with a chance to start, running, or about to be requeued."""
        return self.state in ACTIVE_STATES and not self.dependency_failed

    @property
    def dependency_failed(self) -> bool:
        """Return True if a job that this one depends on has failed."""
        return self.reason == DEPENDENCY_NEVER_SATISFIED


def is_available() -> bool:
    """Return True if this machine can submit jobs to SLURM."""
    return shutil.which("sbatch") is not None


def run_command(*command: str) -> str:
    """Return the output of a SLURM command.

    Raises:
        SlurmError: the command is missing, fails or does not answer in time.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_SECONDS)
    except FileNotFoundError:
        raise SlurmError(f"{command[0]} is not installed on this machine") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} did not answer within {COMMAND_TIMEOUT_SECONDS:.0f} s") from None
    if done.returncode:
        raise SlurmError(f"{command[0]}: {_last_line(done.stderr or done.stdout)}")
    return done.stdout


def _last_line(text: str) -> str:
    """Return the last line of an error message, which names the cause, without the name of the command."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"^\w+: (?:error|fatal): ", "", lines[-1]) if lines else "no error message"


def hostnames(nodelist: str) -> list[str]:
    """Return the host names of a node list such as n[1-3]."""
    return run_command("scontrol", "show", "hostnames", nodelist).split()


def read_setting(name: str) -> str | None:
    """Return a value of the site's configuration, such as MaxArraySize; None if it is not set."""
    match = re.search(rf"^{re.escape(name)}[ \t]*=[ \t]*(.*)$", run_command("scontrol", "show", "config"), re.MULTILINE)
    return match[1].strip() if match else None


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a partition: the number of GPUs by type ("" if SLURM knows no type), and its features."""

    name: str
    gpus: dict[str, int]
    features: frozenset[str]

    def count(self, gpu_type: str | None) -> int:
        """Return the number of GPUs of a type, or of all types if it is None."""
        return sum(self.gpus.values()) if gpu_type is None else self.gpus.get(gpu_type, 0)


def nodes(partition: str | None) -> list[Node]:
    """Return the nodes of one or several comma-separated partitions, or of the default partition.

    Raises:
        SlurmError: sinfo is missing, fails or knows no such partition.
    """
    named = [f"--partition={partition}"] if partition else []
    nodes_by_name: dict[str, Node] = {}
    for line in run_command("sinfo", "--noheader", "--Node", "--format=%N|%P|%G|%f", *named).splitlines():
        name, partition_name, gres, features = (part.strip() for part in line.split("|"))
        if partition or partition_name.endswith("*"):
            nodes_by_name[name] = Node(name, parse_gres(gres), frozenset(features.split(",")))
    if not nodes_by_name:
        raise SlurmError(f"sinfo knows no partition {partition}" if partition else "sinfo knows no default partition")
    return list(nodes_by_name.values())


def time_limit(partition: str | None) -> int | None:
    """Return the longest time limit of the partitions in minutes; None if one is unlimited.

    Raises:
        SlurmError: sinfo is missing or fails.
    """
    named = [f"--partition={partition}"] if partition else []
    limits: list[int] = []
    for line in run_command("sinfo", "--noheader", "--format=%P|%l", *named).splitlines():
        name, limit = line.strip().split("|")
        minutes = parse_time(limit)
        if minutes is None and (partition or name.endswith("*")):
            return None
        if minutes is not None and (partition or name.endswith("*")):
            limits.append(minutes)
    return max(limits, default=None)


def parse_time(text: str) -> int | None:
    """Return the minutes of a SLURM time: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS; None for infinite."""
    days, _, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in [*parts, days or "0"]):
        return None
    if days:
        parts = [*parts, "0"]  # the first part is hours
    elif len(parts) < 3:
        parts = ["0", *parts]  # the first part is minutes
    return int(days or 0) * 1440 + int(parts[0]) * 60 + int(parts[1])


def parse_gres(text: str) -> dict[str, int]:
    """Return the number of GPUs by type from a node's generic resources, such as gpu:a100:8(S:0-1),mps:800."""
    gpus: dict[str, int] = {}
    for item in re.sub(r"\([^)]*\)", "", text).split(","):
        kind, _, rest = item.strip().partition(":")
        gpu_type, _, count = rest.rpartition(":")
        if kind == "gpu" and count.isdigit():
            gpus[gpu_type] = gpus.get(gpu_type, 0) + int(count)
    return gpus


def job(identifier: str) -> SlurmJob | None:
    """Return the job from the controller; None if the controller has forgotten it, minutes after its end."""
    return next(iter(jobs([identifier])), None)


def jobs(identifiers: Iterable[str]) -> list[SlurmJob]:
    """Return those of the jobs that the controller still knows. An array gives one entry per task."""
    wanted = sorted(set(identifiers))
    if not wanted:
        return []
    try:
        text = run_command(
            *("squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(wanted)}"),
            "--Format=JobArrayID:64,State:32,Reason:64,RestartCnt:16,NodeList:256",
        )
    except SlurmError as error:
        if "Invalid job id" in str(error):
            return [] if len(wanted) == 1 else [job for identifier in wanted for job in jobs([identifier])]
        raise
    widths = (64, 32, 64, 16, 256)
    known = []
    for line in text.splitlines():
        cells, start = [], 0
        for width in widths:
            cells.append(line[start : start + width].strip())
            start += width
        known.append(SlurmJob(cells[0], cells[1], cells[2], int(cells[3] or 0), cells[4]))
    return known


def requeue(identifier: str) -> None:
    """Requeue a running job: SLURM ends its processes and starts it again later.

    Raises:
        SlurmError: scontrol is missing or fails.
    """
    run_command("scontrol", "requeue", identifier)


def cancel_pending(identifiers: Iterable[str]) -> None:
    """Cancel those of the jobs that have not started.

    Raises:
        SlurmError: scancel is missing or fails.
    """
    run_command("scancel", "--state=PENDING", *identifiers)


def exclude_nodes(identifier: str, names: Iterable[str]) -> None:
    """Exclude nodes from a pending job, besides those that are excluded already.

    Raises:
        SlurmError: scontrol is missing or fails.
    """
    match = re.search(r"\bExcNodeList=(\S*)", run_command("scontrol", "show", "job", identifier))
    before = [match[1]] if match and match[1] not in ("", "(null)") else []
    run_command("scontrol", "update", f"jobid={identifier}", f"excnodelist={','.join([*before, *names])}")


def set_dependency(identifier: str, dependency: str) -> None:
    """Replace the dependency of a pending job or array, for example by afterok:12.

    Raises:
        SlurmError: scontrol is missing or fails.
    """
    run_command("scontrol", "update", f"jobid={identifier}", f"dependency={dependency}")
