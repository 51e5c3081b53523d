from __future__ import annotations

import socket
from pathlib import Path

import pytest

from lmrc.common.errors import UserError
from lmrc.runs.events import History
from lmrc.runs.failures import Attempt, AttemptOutcome, end_of, note_failure

ATTEMPT = Attempt("4711", 2)
CLOSED = RuntimeError("[pair.cc:553] Connection closed by peer [10.0.0.1]:9600")


def note(folder: Path, monkeypatch: pytest.MonkeyPatch, rank: int, error: Exception) -> None:
    monkeypatch.setenv("RANK", str(rank))
    note_failure(folder, ATTEMPT, error, rank)


def test_the_cause_is_named_by_rank_and_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Others notice first, as it happens: the one with an error of its own is the cause.
    note(tmp_path, monkeypatch, 1, CLOSED)
    note(tmp_path, monkeypatch, 3, KeyError("relation"))
    note(tmp_path, monkeypatch, 0, CLOSED)
    assert end_of(tmp_path, ATTEMPT) == AttemptOutcome(f"rank 3 on {socket.gethostname()}: KeyError: 'relation'")


def test_a_rank_that_says_nothing_is_the_cause_where_others_lost_touch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    History(tmp_path).add("started", job="4711", restart=1, hosts="x,x,x,x")
    History(tmp_path).add("started", job="4711", restart=2, hosts="n1,n1,n2,n2")
    for rank in (0, 1, 3):
        note(tmp_path, monkeypatch, rank, CLOSED)
    end = end_of(tmp_path, ATTEMPT)
    assert end.lost_peer
    assert end.cause.startswith("rank 2 on n2 went silent (killed, or its node is gone), as rank 0 on ")


def test_a_mistake_is_told_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note(tmp_path, monkeypatch, 0, UserError("data/none: no such folder"))
    assert end_of(tmp_path, ATTEMPT) == AttemptOutcome("data/none: no such folder", is_user_error=True)


def test_other_attempts_and_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note(tmp_path, monkeypatch, 0, ValueError("of the attempt before"))
    assert end_of(tmp_path, Attempt("4711", 3)) == AttemptOutcome()
    (tmp_path / "log" / "failures" / "4711-3-00000.json").write_text('{"rank": 0, "ho')  # torn
    assert end_of(tmp_path, Attempt("4711", 3)) == AttemptOutcome()
