from __future__ import annotations

import socket
from pathlib import Path

import pytest

from lmrc.common.errors import UserError
from lmrc.runs.events import History
from lmrc.runs.failures import Attempt, AttemptOutcome, attempt_outcome, note_failure

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
