"""Processes to be killed, for tests."""

from __future__ import annotations

import os
import pickle
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch


class Child:
    """A forked process: torch is imported already, so that dozens of them take seconds.

    It runs `function(report, *arguments)`; what it gives to `report` is read by the parent, also after its death.
    """

    def __init__(self, function: Callable[..., None], *arguments: Any) -> None:
        self._reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                torch.set_num_threads(1)  # threads do not survive a fork
                os.close(self._reader)
                function(lambda value: _write(writer, value), *arguments)
                status = 0
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(status)
        os.close(writer)

    def wait_for_report(self, seconds: float = 60.0) -> None:
        """Wait until something is reported."""
        assert select.select([self._reader], [], [], seconds)[0], "no report came"

    def kill(self) -> None:
        """As the kernel or SLURM does: it cannot be heard."""
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is there still."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self, seconds: float = 60.0) -> tuple[int, list[Any]]:
        """(exit status, or minus the signal that ended it; its reports). Fails where it hangs."""
        end = time.monotonic() + seconds
        reports: list[Any] = []
        with os.fdopen(self._reader, "rb", buffering=0) as reader:
            while select.select([reader], [], [], max(0.0, end - time.monotonic()))[0]:
                try:
                    reports.append(pickle.load(reader))
                except (EOFError, pickle.UnpicklingError):  # nothing more, or a report cut short
                    break
            else:
                self.kill()
                os.waitpid(self.pid, 0)
                pytest.fail(f"the process hangs: no end within {seconds} s, after {reports}")
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), reports


def _write(writer: int, value: Any) -> None:
    os.write(writer, pickle.dumps(value))


def die_before(operation: int) -> None:
    """Kill this process before that operation on files, counted from now."""
    left = operation

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event.split(".")[0] in ("open", "os", "shutil"):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
