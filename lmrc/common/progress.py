"""How far one process has come through documents: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import time
from typing import TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 60.0


class DocumentProgress:
    """Documents done, on `stream`."""

    def __init__(self, what: str, total: int | None, stream: TextIO) -> None:
        """`total`: of documents, where it is known."""
        self._what, self._total, self._stream = what, total, stream
        self._done = 0
        self._start = self._last_line = time.monotonic()
        self._bar = tqdm(total=total, desc=what, unit=" documents", file=stream, disable=None, leave=False)

    def __enter__(self) -> DocumentProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, documents: int) -> None:
        """So many more are done."""
        self._done += documents
        self._bar.update(documents)
        now = time.monotonic()
        if self._bar.disable and now - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = now
            of = "" if self._total is None else f" of {self._total:,}"
            self.say(f"{self._what}: {self._done:,}{of} documents, {_speed(self._done / (now - self._start))}")

    def say(self, line: str) -> None:
        """A line that stays."""
        self._bar.write(line, file=self._stream)
        self._stream.flush()


def _speed(a_second: float) -> str:
    return f"{a_second:,.0f} a second" if a_second >= 1 else f"{60 * a_second:,.1f} a minute"
