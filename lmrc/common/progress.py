"""Progress of one process over documents: a bar on a terminal, otherwise one log line per minute."""

from __future__ import annotations

import logging
import time
from typing import TextIO

from tqdm import tqdm

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 60.0


class DocumentProgress:
    """Counter of processed documents.

    Args:
        what: label of the bar.
        total: number of documents, if it is known.
        stream: the bar is written to it.
    """

    def __init__(self, what: str, total: int | None, stream: TextIO) -> None:
        self._what, self._total = what, total
        self._done = 0
        self._start = self._last_line = time.monotonic()
        self._bar = tqdm(total=total, desc=what, unit=" documents", file=stream, disable=None, leave=False)

    def __enter__(self) -> DocumentProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, documents: int) -> None:
        """Count this many more documents as done."""
        self._done += documents
        self._bar.update(documents)
        now = time.monotonic()
        if self._bar.disable and now - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = now
            of = "" if self._total is None else f" of {self._total:,}"
            logger.info(f"{self._what}: {self._done:,}{of} documents, {_speed(self._done / (now - self._start))}")


def _speed(per_second: float) -> str:
    return f"{per_second:,.0f} per second" if per_second >= 1 else f"{60 * per_second:,.1f} per minute"
