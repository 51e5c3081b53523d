"""Child processes that tests kill."""

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
    """A forked process that runs `function(report, *arguments)`.

    The parent reads the values that it reports, even after its death. A fork has torch already imported, so dozens of
    processes take only seconds.
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
        """Send SIGKILL, as the kernel or SLURM does."""
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if the process still exists."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self, seconds: float = 60.0) -> tuple[int, list[Any]]:
        """Wait for the end of the process. Fail the test if it hangs.

        Returns:
            The exit status (or minus the signal that killed it) and the reported values.
        """
        end = time.monotonic() + seconds
        reports: list[Any] = []
        with os.fdopen(self._reader, "rb", buffering=0) as reader:
            while select.select([reader], [], [], max(0.0, end - time.monotonic()))[0]:
                try:
                    reports.append(pickle.load(reader))
                except (EOFError, pickle.UnpicklingError):  # the end, or a report that the kill cut off
                    break
            else:
                self.kill()
                os.waitpid(self.pid, 0)
                pytest.fail(f"the process hangs: no end within {seconds} s, after {reports}")
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), reports


def _write(writer: int, value: Any) -> None:
    os.write(writer, pickle.dumps(value))


def die_before(operation: int) -> None:
    """Kill this process before its n-th operation on files from now on."""
    left = operation

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event.split(".")[0] in ("open", "os", "shutil"):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
