"""A thread that ends this process if another rank failed or does not answer.

A collective of NCCL never returns to Python if a rank is missing, and NCCL's own timeout ends the process by SIGABRT,
without a report. gloo raises an exception, but at the timeout too if the rank is alive.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from lmrc.runs.failures import LostPeer

# Time between two looks at the progress. A failed rank is looked for less often, in a folder that may be on NFS.
POLL_SECONDS = 1.0
PEER_POLL_SECONDS = 2.0
# A report that cannot be written, for example because a file server is gone, must not keep the process.
REPORT_SECONDS = 30.0


class Watchdog:
    """Thread that ends this process if a watched section makes no progress, or if another rank failed.

    Args:
        timeout: Longest time without progress in a watched section. Time in which the process is suspended does not
            count.
        report: Record why this process ends. Called in the thread.
        failed_peer: Return the failure of another rank; empty without one.
    """

    def __init__(self, timeout: timedelta, report: Callable[[LostPeer], None], failed_peer: Callable[[], str]) -> None:
        self._timeout = timeout.total_seconds()
        self._report = report
        self._failed_peer = failed_peer
        self._sections: list[str] = []
        self._progress = 0
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def watch(self, doing: str) -> Iterator[None]:
        """Watch a section that waits for other ranks. Entering or leaving a section within it counts as progress.

        Args:
            doing: What the section does, for the report.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
            self._thread.start()
        self._sections.append(doing)
        self._progress += 1
        try:
            yield
        finally:
            self._sections.pop()
            self._progress += 1

    def _run(self) -> None:
        interval = min(POLL_SECONDS, self._timeout / 10)
        progress, silent, since_peer, last = -1, 0.0, 0.0, time.monotonic()
        while True:
            time.sleep(interval)
            now = time.monotonic()
            # A process that was suspended counts one look, and not the time until it went on.
            passed, last = min(now - last, 2 * interval), now
            doing = next(reversed(self._sections), "")
            if not doing:
                continue
            silent = silent + passed if progress == self._progress else 0.0
            progress, since_peer = self._progress, since_peer + passed
            if silent > self._timeout:
                self._end(f"no progress for {self._timeout / 60:g} minutes in: {doing}")
            if since_peer > PEER_POLL_SECONDS:
                since_peer = 0.0
                failure = self._failed_peer()
                # A rank that has left the section since then has an error of its own to report.
                if failure and progress == self._progress:
                    self._end(f"ended in: {doing}, because another rank failed: {failure}")

    def _end(self, cause: str) -> None:
        reporter = threading.Thread(target=self._report, args=(LostPeer(cause),), daemon=True)
        reporter.start()
        reporter.join(REPORT_SECONDS)
        sys.stderr.write(f"{cause}\n")
        sys.stderr.flush()
        os._exit(1)
