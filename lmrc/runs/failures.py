"""Failure reports. Every process that fails writes one; together they name the rank, host and cause."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import re
import socket
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

from lmrc.common.atomic_io import write_atomically
from lmrc.common.errors import RunError, UserError
from lmrc.runs.events import History

# CUDA's and the driver's messages for a broken GPU or node. The same job may succeed on another node.
_HARDWARE_ERROR = re.compile(
    r"uncorrectable (ECC|NVLink)|\bXid\b|fallen off the bus|GPU is lost|nvlink or a hardware error"
    r"|is/are busy or unavailable|system not yet initialized",
    re.IGNORECASE,
)
# Errors that a process group raises although no other rank is lost.
_LOCAL_ERROR = re.compile(
    r"out of memory|unhandled cuda error|invalid usage|invalid argument|duplicate GPU|no space left"
    r"|quota exceeded",
    re.IGNORECASE,
)
# gloo raises a plain RuntimeError, which only its message identifies.
_LOST_PEER = ("gloo", "Connection closed by peer", "Connection reset by peer", "Timed out waiting")


# Exit status of a process on a broken node, from which the batch script knows of it if no report could be written.
BROKEN_NODE_STATUS = 86


class LostPeer(RuntimeError):
    """Another rank failed, or does not answer."""


class BrokenNode(RuntimeError):
    """The node of this process failed a check before the job began its work."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"node check: {problem}")


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
    """The failure report of one process, as log/failures holds it.

    Attributes:
        lost_peer: the process failed because another one did.
        is_hardware_error: the GPU or the node is broken.
        node: SLURM's name of the host.
        stacks: file beside the report with the traceback and the Python stacks of all threads; empty without one.
    """

    rank: int
    host: str
    cause: str
    time: float
    is_user_error: bool
    lost_peer: bool
    is_hardware_error: bool = False
    node: str = ""
    stacks: str = ""

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host}: {self.cause}"


@dataclass(frozen=True)
class AttemptOutcome:
    """The end of an attempt. `cause` is empty if no process reported a failure.

    Attributes:
        broken_nodes: nodes with a hardware error, or that failed the node check.
    """

    cause: str = ""
    is_user_error: bool = False
    lost_peer: bool = False
    broken_nodes: tuple[str, ...] = ()


def note_failure(folder: Path, attempt: Attempt, error: BaseException, process: int) -> None:
    """Write the failure report of this process to the run `folder`, then its Python stacks and its last collectives.

    Each process writes files of its own, because several may fail at once on several nodes.
    """
    is_user_error = isinstance(error, UserError)
    name = f"{attempt.job}-{attempt.restart}-{process:05d}"
    failure = Failure(
        rank=int(os.environ.get("RANK", "0")),
        host=socket.gethostname(),
        cause=str(error)
        if is_user_error or isinstance(error, BrokenNode)
        else traceback.format_exception_only(error)[-1].strip(),
        time=time.time(),
        is_user_error=is_user_error,
        lost_peer=_is_lost_peer(error),
        is_hardware_error=_is_hardware_error(error),
        node=os.environ.get("SLURMD_NODENAME", socket.gethostname()),
        stacks="" if is_user_error else f"{name}.stacks",
    )
    _write_report(folder, name, failure)
    if failure.stacks:
        _write_stacks(_reports(folder) / failure.stacks, error)
        _write_collectives(_reports(folder) / f"{attempt.job}-{attempt.restart}-collectives-{failure.rank}")


def note_killed(folder: Path, attempt: Attempt, rank: int) -> None:
    """Write the failure report of a rank on this host that ended without writing one."""
    host = socket.gethostname()
    cause = "killed (it left no report)"
    failure = Failure(rank, host, cause, time.time(), is_user_error=False, lost_peer=False, node=host)
    _write_report(folder, f"{attempt.job}-{attempt.restart}-{rank:05d}", failure)


def has_report(folder: Path, attempt: Attempt, process: int) -> bool:
    """Return True if the process wrote a failure report."""
    return (_reports(folder) / f"{attempt.job}-{attempt.restart}-{process:05d}.json").exists()


def failed_peer(folder: Path, attempt: Attempt, process: int) -> str:
    """Return the failure of another process of the attempt; empty without one."""
    failures = [failure for number, failure in _read_reports(folder, attempt) if number != process]
    return str(failures[0]) if failures else ""


def remove_reports(folder: Path, attempt: Attempt) -> None:
    """Remove the reports of an earlier run with the same name. A machine uses the number of a process again."""
    for path in _reports(folder).glob(f"{attempt.job}-{attempt.restart}-*"):
        path.unlink(missing_ok=True)


def _reports(folder: Path) -> Path:
    return folder / "log" / "failures"


def _write_report(folder: Path, name: str, failure: Failure) -> None:
    # If the report cannot be written, the error itself must still be raised.
    with contextlib.suppress(RunError):
        write_atomically(_reports(folder) / f"{name}.json", json.dumps(asdict(failure)) + "\n")


def _write_stacks(path: Path, error: BaseException) -> None:
    """Write the traceback of the error and the Python stacks of all threads."""
    with contextlib.suppress(OSError), path.open("w") as file:
        file.writelines(traceback.format_exception(error))
        file.write("\n")
        file.flush()
        faulthandler.dump_traceback(file, all_threads=True)


def _write_collectives(path: Path) -> None:
    """Write torch's record of the last collectives, which `torchfrtrace` compares between ranks.

    torch keeps it if TORCH_FR_BUFFER_SIZE is set.
    """
    dist = sys.modules.get("torch.distributed")
    if dist is None or not dist.is_available() or not dist.is_initialized():
        return
    from torch._C import _distributed_c10d as c10d

    # NCCL has a record of its own. The names are private, so a version of torch may lack them.
    names = ("_dump_nccl_trace", "_dump_fr_trace") if dist.get_backend() == "nccl" else ("_dump_fr_trace",)
    dump = next((getattr(c10d, name) for name in names if hasattr(c10d, name)), None)
    if dump is not None:
        with contextlib.suppress(OSError, RuntimeError):
            path.write_bytes(dump())


def _is_hardware_error(error: BaseException) -> bool:
    if isinstance(error, UserError):
        return False
    return isinstance(error, BrokenNode) or _HARDWARE_ERROR.search(str(error)) is not None


def _is_lost_peer(error: BaseException) -> bool:
    import torch.distributed as dist

    if isinstance(error, LostPeer):
        return True
    message = str(error)
    is_collective = isinstance(error, dist.DistError) or any(word in message for word in _LOST_PEER)
    return is_collective and not _LOCAL_ERROR.search(message) and not _HARDWARE_ERROR.search(message)


def attempt_outcome(folder: Path, attempt: Attempt) -> AttemptOutcome:
    """Return the outcome of the attempt, from the failure reports of its processes.

    The cause is the earliest hardware error, else the earliest failure that is not a lost peer. If all of them are lost
    peers, the cause is the ranks that reported nothing.
    """
    failures = [failure for _, failure in _read_reports(folder, attempt)]
    if not failures:
        return AttemptOutcome()
    broken = [failure for failure in failures if failure.is_hardware_error]
    if broken:
        nodes = tuple(sorted({failure.node for failure in broken}))
        return AttemptOutcome(str(broken[0]), broken_nodes=nodes)
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


@dataclass(frozen=True)
class FailureRecord:
    """A failure recorded by a process in log/failures/JOB-RESTART-PROCESS.json."""

    job: str
    restart: int
    time: float


def newest_failure(folder: Path) -> FailureRecord | None:
    """Return the newest recorded failure; None if there is none."""
    records = []
    for path in _reports(folder).glob("*-*-*.json"):
        with contextlib.suppress(OSError, ValueError):
            job, restart, _ = path.stem.rsplit("-", 2)
            records.append(FailureRecord(job, int(restart), path.stat().st_mtime))
    return max(records, key=lambda record: record.time, default=None)


def _read_reports(folder: Path, attempt: Attempt) -> list[tuple[int, Failure]]:
    """Return the processes that reported a failure and their reports, earliest first. Damaged ones are skipped."""
    failures = []
    for path in _reports(folder).glob(f"{attempt.job}-{attempt.restart}-*.json"):
        with contextlib.suppress(OSError, ValueError):
            failures.append((int(path.stem.rpartition("-")[2]), Failure(**json.loads(path.read_text()))))
    return sorted(failures, key=lambda numbered: numbered[1].time)


def _hosts(folder: Path, attempt: Attempt) -> list[str]:
    """Return the host of each rank, as the attempt's `started` event lists them."""
    for event in reversed(History(folder).read()):
        if (event["event"], event.get("job"), event.get("restart")) == ("started", attempt.job, attempt.restart):
            return str(event["hosts"]).split(",")
    return []
