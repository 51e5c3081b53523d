"""What is asked of SLURM, by its own commands; nothing here knows of runs."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

# A controller that is being restarted answers within this.
SECONDS_TO_ANSWER = 30.0
# Of squeue and sacct: in these a job may still do something.
ACTIVE = frozenset(
    {"PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "REQUEUED", "RESIZING", "SIGNALING", "STAGE_OUT"}
)
# Why a job waits that can never start; SLURM's word also once it was cancelled for that.
IN_VAIN = "DependencyNeverSatisfied"


class SlurmError(Exception):
    """A SLURM command failed; the message is what it said."""


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
        """Whether it waits for something that may come, runs, or comes back."""
        return self.state in ACTIVE and not self.waited_in_vain

    @property
    def waited_in_vain(self) -> bool:
        """Whether what it was to follow has failed."""
        return self.reason == IN_VAIN


def is_here() -> bool:
    """Whether this machine can submit to SLURM."""
    return shutil.which("sbatch") is not None


def ask(*command: str) -> str:
    """The output of a SLURM command. Raises SlurmError where it is missing, fails, or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_TO_ANSWER)
    except FileNotFoundError:
        raise SlurmError(f"{command[0]} is not on this machine") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} did not answer within {SECONDS_TO_ANSWER:.0f} s") from None
    if done.returncode:
        raise SlurmError(f"{command[0]}: {_last_line(done.stderr or done.stdout)}")
    return done.stdout


def _last_line(text: str) -> str:
    """Return the last line of what a SLURM command said, which names the cause, without the command's own name."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"^\w+: (?:error|fatal): ", "", lines[-1]) if lines else "no word of why"


def hostnames(nodelist: str) -> list[str]:
    """The names in a list such as n[1-3]."""
    return ask("scontrol", "show", "hostnames", nodelist).split()


def setting(name: str) -> str | None:
    """A value of the site's configuration, such as MaxArraySize; None where it has none of that name."""
    found = re.search(rf"^{re.escape(name)}[ \t]*=[ \t]*(.*)$", ask("scontrol", "show", "config"), re.MULTILINE)
    return found[1].strip() if found else None


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a partition: its GPUs by type ("" if SLURM knows no type), and its features."""

    name: str
    gpus: dict[str, int]
    features: frozenset[str]

    def count(self, gpu_type: str | None) -> int:
        """Return the number of GPUs of a type; of all types without one."""
        return sum(self.gpus.values()) if gpu_type is None else self.gpus.get(gpu_type, 0)


def nodes(partition: str | None) -> list[Node]:
    """Return the nodes of a partition, or of several with commas between them; of the default one without a name.

    Raises:
        SlurmError: sinfo is missing, fails, or knows no such partition.
    """
    named = [f"--partition={partition}"] if partition else []
    found: dict[str, Node] = {}
    for line in ask("sinfo", "--noheader", "--Node", "--format=%N|%P|%G|%f", *named).splitlines():
        name, of, gres, features = (part.strip() for part in line.split("|"))
        if partition or of.endswith("*"):
            found[name] = Node(name, parse_gres(gres), frozenset(features.split(",")))
    if not found:
        raise SlurmError(f"sinfo knows no partition {partition}" if partition else "sinfo knows no default partition")
    return list(found.values())


def time_limit(partition: str | None) -> int | None:
    """Return the longest time limit of the partitions in minutes; None if there is none. Raises SlurmError."""
    named = [f"--partition={partition}"] if partition else []
    limits: list[int] = []
    for line in ask("sinfo", "--noheader", "--format=%P|%l", *named).splitlines():
        name, limit = line.strip().split("|")
        minutes = parse_time(limit)
        if minutes is None and (partition or name.endswith("*")):
            return None
        if minutes is not None and (partition or name.endswith("*")):
            limits.append(minutes)
    return max(limits, default=None)


def parse_time(text: str) -> int | None:
    """Return the minutes of SLURM's D-HH:MM:SS, HH:MM:SS or MM:SS; None for infinite."""
    days, _, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in [*parts, days or "0"]):
        return None
    hours, minutes = (int(part) for part in ["0", "0", *parts][-3:-1])
    return int(days or 0) * 1440 + hours * 60 + minutes


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
    """The job as the controller knows it; None where it has forgotten it (minutes after its end)."""
    return next(iter(jobs([identifier])), None)


def jobs(identifiers: Iterable[str]) -> list[SlurmJob]:
    """The jobs among `identifiers` (also of whole arrays) that the controller knows, an array's task by task."""
    wanted = sorted(set(identifiers))
    if not wanted:
        return []
    try:
        text = ask(
            *("squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(wanted)}"),
            "--Format=JobArrayID:64,State:32,Reason:64,RestartCnt:16,NodeList:256",
        )
    except SlurmError as error:
        if "Invalid job id" in str(error):
            return [] if len(wanted) == 1 else [found for one in wanted for found in jobs([one])]
        raise
    widths = (64, 32, 64, 16, 256)
    found = []
    for line in text.splitlines():
        cells, start = [], 0
        for width in widths:
            cells.append(line[start : start + width].strip())
            start += width
        found.append(SlurmJob(cells[0], cells[1], cells[2], int(cells[3] or 0), cells[4]))
    return found


def requeue(identifier: str) -> None:
    """Put a running job back into the queue: SLURM ends its processes and starts it anew. Raises SlurmError."""
    ask("scontrol", "requeue", identifier)


def depend(identifier: str, dependency: str) -> None:
    """Have a waiting job, or a whole array, wait for this instead, such as afterok:12. Raises SlurmError."""
    ask("scontrol", "update", f"jobid={identifier}", f"dependency={dependency}")
