"""Failure reports. Every process that fails writes one; together they name the rank, host and cause."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

from lmrc.common.atomic_io import write_atomically
from lmrc.common.errors import RunError, UserError
from lmrc.runs.events import History


@dataclass(frozen=True)
class Attempt:
    """One start of a job.

    Attributes:
        job: SLURM job id, or local-PID.
        restart: number of earlier starts of the job.
    """

    job: str
    restart: int = 0


@dataclass(frozen=True)
class Failure:
    """The failure report of one process, as log/failures holds it."""

    rank: int
    host: str
    cause: str
    time: float
    is_user_error: bool
    # The process failed because another one did.
    lost_peer: bool

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host}: {self.cause}"


@dataclass(frozen=True)
class AttemptOutcome:
    """The end of an attempt. `cause` is empty if no process reported a failure."""

    cause: str = ""
    is_user_error: bool = False
    lost_peer: bool = False


def note_failure(folder: Path, attempt: Attempt, error: Exception, process: int) -> None:
    """Write the failure report of this process to the run `folder`.

    Each process writes a file of its own, because several may fail at once on several nodes.
    """
    rank = int(os.environ.get("RANK", "0"))
    is_user_error = isinstance(error, UserError)
    cause = str(error) if is_user_error else traceback.format_exception_only(error)[-1].strip()
    failure = Failure(rank, socket.gethostname(), cause, time.time(), is_user_error, _is_lost_peer(error))
    name = f"{attempt.job}-{attempt.restart}-{process:05d}.json"
    # If the report cannot be written, the error itself must still be raised.
    with contextlib.suppress(RunError):
        write_atomically(folder / "log" / "failures" / name, json.dumps(asdict(failure)) + "\n")


def _is_lost_peer(error: Exception) -> bool:
    import torch.distributed as dist

    # gloo raises a plain RuntimeError, which only its message identifies.
    words = ("gloo", "Connection closed by peer", "Connection reset by peer", "Timed out waiting")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)


def attempt_outcome(folder: Path, attempt: Attempt) -> AttemptOutcome:
    """Return the outcome of the attempt, from the failure reports of its processes.

    The cause is the earliest failure that is not a lost peer. If all of them are lost peers, the cause is the ranks
    that reported nothing.
    """
    failures = []
    for path in (folder / "log" / "failures").glob(f"{attempt.job}-{attempt.restart}-*.json"):
        with contextlib.suppress(OSError, ValueError):
            failures.append(Failure(**json.loads(path.read_text())))
    if not failures:
        return AttemptOutcome()
    failures.sort(key=lambda failure: failure.time)
    first = next((failure for failure in failures if not failure.lost_peer), None)
    if first is not None:
        return AttemptOutcome(first.cause if first.is_user_error else str(first), is_user_error=first.is_user_error)
    reported = {failure.rank for failure in failures}
    silent = [f"rank {rank} on {host}" for rank, host in enumerate(_hosts(folder, attempt)) if rank not in reported]
    if silent:
        observer = f"rank {failures[0].rank} on {failures[0].host}"
        return AttemptOutcome(
            f"{', '.join(silent)} went silent (killed, or its node is gone), as {observer} noticed", lost_peer=True
        )
    return AttemptOutcome(str(failures[0]), lost_peer=True)


def _hosts(folder: Path, attempt: Attempt) -> list[str]:
    """Return the host of each rank, as the attempt's `started` event lists them."""
    for event in reversed(History(folder).read()):
        if (event["event"], event.get("job"), event.get("restart")) == ("started", attempt.job, attempt.restart):
            return str(event["hosts"]).split(",")
    return []
