from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from lmrc.training import watchdog
from lmrc.training.watchdog import Watchdog
from tests.training.child import Child

TIMEOUT = 1.0


def make(report: Callable[[Any], None], failure: str = "") -> Watchdog:
    return Watchdog(timedelta(seconds=TIMEOUT), lambda error: report(str(error)), lambda: failure)


def test_a_section_without_progress_ends_the_process() -> None:
    def hang(report: Callable[[Any], None]) -> None:
        dog = make(report)
        with dog.watch("a step"):
            with dog.watch("a micro-batch"):
                pass
            time.sleep(30.0)

    assert Child(hang).end(20.0) == (1, ["no progress for 0.0166667 minutes in: a step"])


def test_progress_and_time_outside_of_sections_do_not_end_it() -> None:
    def go_on(report: Callable[[Any], None]) -> None:
        dog = make(report)
        with dog.watch("a step"):
            for _ in range(8):
                with dog.watch("a micro-batch"):
                    time.sleep(TIMEOUT / 4)
        time.sleep(2 * TIMEOUT)
        with dog.watch("a step"):
            time.sleep(TIMEOUT / 4)

    assert Child(go_on).end(20.0) == (0, [])


def test_time_in_which_the_process_is_suspended_does_not_count() -> None:
    def wait(report: Callable[[Any], None]) -> None:
        with make(report).watch("a step"):
            time.sleep(TIMEOUT / 4)  # the watchdog has seen the section
            report("waits")
            for _ in range(5):  # the rest of one sleep passes while the process is suspended
                time.sleep(TIMEOUT / 10)

    child = Child(wait)
    child.wait_for_report()
    child.signal(signal.SIGSTOP)
    time.sleep(2 * TIMEOUT)
    child.signal(signal.SIGCONT)
    assert child.end(20.0) == (0, ["waits"])


def test_the_failure_of_another_rank_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "PEER_POLL_SECONDS", 0.2)

    def wait(report: Callable[[Any], None]) -> None:
        with make(report, "rank 3 on n1: KeyError: 'relation'").watch("a step"):
            time.sleep(30.0)

    cause = "ended in: a step, because another rank failed: rank 3 on n1: KeyError: 'relation'"
    assert Child(wait).end(20.0) == (1, [cause])


def test_a_report_that_hangs_does_not_keep_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "REPORT_SECONDS", 0.5)

    def hang(report: Callable[[Any], None]) -> None:
        dog = Watchdog(timedelta(seconds=TIMEOUT), lambda error: time.sleep(30.0), lambda: "")
        with dog.watch("a step"):
            os.read(os.pipe()[0], 1)  # never returns to Python

    assert Child(hang).end(20.0) == (1, [])
