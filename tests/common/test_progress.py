from __future__ import annotations

import io

import pytest

from lmrc.common.progress import DocumentProgress


class Clock:
    """Seconds that a test decides."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("lmrc.common.progress.time.monotonic", lambda: self.now)


def test_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(monkeypatch), io.StringIO()
    with DocumentProgress("reading", 4000, stream) as documents:
        for _ in range(3):
            clock.now += 50
            documents.add(1000)
    # After 100 s and 2,000 documents; 50 s behind that is too early for another.
    assert stream.getvalue().splitlines() == ["reading: 2,000 of 4,000 documents, 20 a second"]


def test_slow_work_of_unknown_length(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(monkeypatch), io.StringIO()
    with DocumentProgress("answering", None, stream) as documents:
        clock.now += 120
        documents.add(9)
    assert stream.getvalue().splitlines() == ["answering: 9 documents, 4.5 a minute"]


def test_nothing_is_said_of_what_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, stream = Clock(monkeypatch), io.StringIO()
    with DocumentProgress("reading", 10, stream) as documents:
        clock.now += 59
        documents.add(10)
    assert stream.getvalue() == ""
