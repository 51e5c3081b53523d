from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from lmrc.common.errors import UserError
from lmrc.runs.events import History
from lmrc.runs.failures import (
    Attempt,
    AttemptOutcome,
    attempt_outcome,
    failed_peer,
    has_report,
    note_failure,
    note_killed,
    remove_reports,
)

ATTEMPT = Attempt("4711", 2)
CLOSED = RuntimeError("[pair.cc:553] Connection closed by peer [10.0.0.1]:9600")


def note(folder: Path, monkeypatch: pytest.MonkeyPatch, rank: int, error: Exception) -> None:
    monkeypatch.setenv("RANK", str(rank))
    note_failure(folder, ATTEMPT, error, rank)


def test_the_cause_names_rank_and_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Rank 1 fails first, but only because it lost a peer.
    note(tmp_path, monkeypatch, 1, CLOSED)
    note(tmp_path, monkeypatch, 3, KeyError("relation"))
    note(tmp_path, monkeypatch, 0, CLOSED)
    assert attempt_outcome(tmp_path, ATTEMPT) == AttemptOutcome(
        f"rank 3 on {socket.gethostname()}: KeyError: 'relation'"
    )


def test_a_rank_without_a_report_is_the_cause_if_others_lost_a_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    History(tmp_path).add("started", job="4711", restart=1, hosts="x,x,x,x")
    History(tmp_path).add("started", job="4711", restart=2, hosts="n1,n1,n2,n2")
    for rank in (0, 1, 3):
        note(tmp_path, monkeypatch, rank, CLOSED)
    outcome = attempt_outcome(tmp_path, ATTEMPT)
    assert outcome.lost_peer
    assert outcome.cause.startswith("rank 2 on n2 went silent (killed, or its node is gone), as rank 0 on ")


def test_a_user_error_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note(tmp_path, monkeypatch, 0, UserError("data/none: no such folder"))
    assert attempt_outcome(tmp_path, ATTEMPT) == AttemptOutcome("data/none: no such folder", is_user_error=True)


def test_reports_of_other_attempts_and_damaged_ones_are_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note(tmp_path, monkeypatch, 0, ValueError("of the attempt before"))
    assert attempt_outcome(tmp_path, Attempt("4711", 3)) == AttemptOutcome()
    (tmp_path / "log" / "failures" / "4711-3-00000.json").write_text('{"rank": 0, "ho')  # torn
    assert attempt_outcome(tmp_path, Attempt("4711", 3)) == AttemptOutcome()


NCCL = "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:94, {}, NCCL version 2.28.9\n{}"


@pytest.mark.parametrize(
    ("error", "lost_peer", "hardware"),
    [
        (
            dist.DistBackendError(
                NCCL.format(
                    "remote process exited or there was a network error",
                    "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting.",
                )
            ),
            True,
            False,
        ),
        (
            dist.DistBackendError(
                NCCL.format(
                    "unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
                    "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 'out of memory'",
                )
            ),
            False,
            False,
        ),
        (
            dist.DistBackendError(
                NCCL.format(
                    "invalid usage (run with NCCL_DEBUG=WARN for details)",
                    "ncclInvalidUsage\nLast error:\nDuplicate GPU detected : rank 0 and rank 1 both on device 3b000",
                )
            ),
            False,
            False,
        ),
        (
            dist.DistBackendError(NCCL.format("unhandled cuda error", "Cuda failure 'uncorrectable ECC error'")),
            False,
            True,
        ),
        # The port is busy. A requeued job uses another one.
        (dist.DistNetworkError("The server socket has failed to listen. port: 20711, EADDRINUSE"), True, False),
        # A checkpoint in gloo's process group.
        (RuntimeError("gloo: [Errno 28] No space left on device"), False, False),
        (RuntimeError("gloo: [Errno 122] Disk quota exceeded"), False, False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), False, False),
        (torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"), False, True),
        (torch.AcceleratorError("CUDA error: uncorrectable NVLink error detected during the execution"), False, True),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False, False),
        (RuntimeError("Unable to determine the device handle for GPU0: GPU is lost"), False, True),
        (RuntimeError("NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus."), False, True),
        # CUDA's messages for a node whose driver or fabric manager is broken.
        (RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"), False, True),
        (RuntimeError("CUDA error: system not yet initialized"), False, True),
        (KeyError("proXide"), False, False),
        (UserError("data/Xid: no such folder"), False, False),
    ],
)
def test_lost_peers_and_hardware_errors_are_known_by_their_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, lost_peer: bool, hardware: bool
) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "n3")
    note(tmp_path, monkeypatch, 0, error)
    outcome = attempt_outcome(tmp_path, ATTEMPT)
    assert (outcome.lost_peer, outcome.broken_nodes) == (lost_peer, ("n3",) if hardware else ())


def test_a_hardware_error_is_the_cause_of_other_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note(tmp_path, monkeypatch, 1, torch.AcceleratorError("CUDA error: unspecified launch failure"))
    note(tmp_path, monkeypatch, 2, torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"))
    outcome = attempt_outcome(tmp_path, ATTEMPT)
    assert "rank 2 on" in outcome.cause and "ECC" in outcome.cause


def test_the_report_names_the_file_with_the_stacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        raise KeyError("relation")
    except KeyError as error:
        note(tmp_path, monkeypatch, 3, error)
    reports = tmp_path / "log" / "failures"
    assert '"stacks": "4711-2-00003.stacks"' in (reports / "4711-2-00003.json").read_text()
    stacks = (reports / "4711-2-00003.stacks").read_text()
    assert "KeyError: 'relation'" in stacks and "Current thread" in stacks
    assert stacks.count(test_the_report_names_the_file_with_the_stacks.__name__) == 2  # traceback and main thread


def test_a_killed_rank_and_the_failure_of_another_rank(tmp_path: Path) -> None:
    assert failed_peer(tmp_path, ATTEMPT, 0) == ""
    note_killed(tmp_path, ATTEMPT, 1)
    assert [has_report(tmp_path, ATTEMPT, rank) for rank in range(2)] == [False, True]
    killed = f"rank 1 on {socket.gethostname()}: killed (it left no report)"
    assert failed_peer(tmp_path, ATTEMPT, 0) == killed
    assert failed_peer(tmp_path, ATTEMPT, 1) == ""
    assert attempt_outcome(tmp_path, ATTEMPT) == AttemptOutcome(killed)
    remove_reports(tmp_path, ATTEMPT)
    assert attempt_outcome(tmp_path, ATTEMPT) == AttemptOutcome()
