"""Why an attempt ended: every process that fails leaves a note, and the notes together name rank, host and cause."""

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
    """Which start of which job this is: `job` is SLURM's id or local-PID, `restart` counts the starts before."""

    job: str
    restart: int = 0


@dataclass(frozen=True)
class Failure:
    """What one process said before it ended."""

    rank: int
    host: str
    cause: str
    time: float
    is_user_error: bool
    lost_peer: bool
    """Whether it only noticed that another process was gone."""

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host}: {self.cause}"


@dataclass(frozen=True)
class AttemptOutcome:
    """How an attempt ended: `cause` is "" where no process said anything."""

    cause: str = ""
    is_user_error: bool = False
    lost_peer: bool = False


def note_failure(folder: Path, attempt: Attempt, error: Exception, process: int) -> None:
    """Leave a note in the run `folder`: a file a process, as several may write at once from several nodes."""
    rank = int(os.environ.get("RANK", "0"))
    is_user_error = isinstance(error, UserError)
    cause = str(error) if is_user_error else traceback.format_exception_only(error)[-1].strip()
    failure = Failure(rank, socket.gethostname(), cause, time.time(), is_user_error, _lost_peer(error))
    place = folder / "log" / "failures"
    # The error itself matters more than a note of it that could not be written.
    with contextlib.suppress(OSError, RunError):
        place.mkdir(parents=True, exist_ok=True)
        name = f"{attempt.job}-{attempt.restart}-{process:05d}.json"
        write_atomically(place / name, json.dumps(asdict(failure)) + "\n")


def _lost_peer(error: Exception) -> bool:
    import torch.distributed as dist

    # gloo raises a plain RuntimeError, told from others by its own words.
    words = ("gloo", "Connection closed by peer", "Connection reset by peer", "Timed out waiting")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)


def end_of(folder: Path, attempt: Attempt) -> AttemptOutcome:
    """How the attempt ended, by the notes of its processes.

    The earliest failure is the cause, unless all of them only lost touch with others: then it is those who went silent.
    """
    found = []
    for path in (folder / "log" / "failures").glob(f"{attempt.job}-{attempt.restart}-*.json"):
        with contextlib.suppress(OSError, ValueError):
            found.append(Failure(**json.loads(path.read_text())))
    if not found:
        return AttemptOutcome()
    found.sort(key=lambda failure: failure.time)
    first = next((failure for failure in found if not failure.lost_peer), None)
    if first is not None:
        return AttemptOutcome(first.cause if first.is_user_error else str(first), is_user_error=first.is_user_error)
    said = {failure.rank for failure in found}
    silent = [f"rank {rank} on {host}" for rank, host in enumerate(_hosts(folder, attempt)) if rank not in said]
    if silent:
        who = ", ".join(silent)
        noticed = f"rank {found[0].rank} on {found[0].host}"
        return AttemptOutcome(f"{who} went silent (killed, or its node is gone), as {noticed} noticed", lost_peer=True)
    return AttemptOutcome(str(found[0]), lost_peer=True)


def _hosts(folder: Path, attempt: Attempt) -> list[str]:
    """The host of each rank, as noted when the attempt started."""
    for event in reversed(History(folder).read()):
        if (event["event"], event.get("job"), event.get("restart")) == ("started", attempt.job, attempt.restart):
            return str(event["hosts"]).split(",")
    return []
