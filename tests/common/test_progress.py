from __future__ import annotations

import io

import pytest

from lmrc.common.progress import DocumentProgress


class Clock:
    """Clock that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("lmrc.common.progress.time.monotonic", lambda: self.now)


def test_one_line_per_minute(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(monkeypatch)
    with DocumentProgress("reading", 4000, io.StringIO()) as documents:
        for _ in range(3):
            clock.now += 50
            documents.add(1000)
    # The line is logged after 100 s. The next 50 s are too short for another.
    assert caplog.messages == ["reading: 2,000 of 4,000 documents, 20 per second"]


def test_slow_work_of_unknown_length(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(monkeypatch)
    with DocumentProgress("answering", None, io.StringIO()) as documents:
        clock.now += 120
        documents.add(9)
    assert caplog.messages == ["answering: 9 documents, 4.5 per minute"]


def test_quick_work_logs_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(monkeypatch)
    with DocumentProgress("reading", 10, io.StringIO()) as documents:
        clock.now += 59
        documents.add(10)
    assert caplog.messages == []
