"""Attempts at units: computing the rows, and when that fails naming the documents at fault."""

from __future__ import annotations

import statistics
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

from lmrc.common.errors import ConfigError, RunError, UserError
from lmrc.common.exit_codes import Interrupted
from lmrc.inference.protocol import Inference
from lmrc.inference.work_units import Units, WorkPlan, encode
from lmrc.runs.heartbeat import Process

MAX_FAILURES_IN_A_ROW = 5
"""Units that fail in a row before a worker doubts itself: a lost GPU fails every one."""


class Culprits(Exception):
    """Documents of a unit failed when each was tried by itself."""


class WorkerFailed(Exception):
    """Every unit fails in this worker, whatever the others do."""


class Attempts:
    """The attempts of one worker."""

    def __init__(
        self,
        units: Units,
        plan: WorkPlan,
        inference: Inference,
        attempts: int,
        process: Process,
        progress: Callable[[str], None],
    ) -> None:
        self._units, self._plan, self._inference, self._attempts = units, plan, inference, attempts
        self._process, self._progress = process, progress
        self.seconds: list[float] = []
        """Of each unit that was done here."""
        self.failed: Counter[int] = Counter()
        """How often a unit failed here."""
        self._good: int | None = None
        self._in_a_row: list[tuple[int, int]] = []

    def usual_seconds(self) -> float | None:
        """How long a unit takes here; None where none was done."""
        return statistics.median(self.seconds) if self.seconds else None

    def make(self, unit: int, attempt: int) -> bool:
        """Compute the unit and publish its part; False where that failed, which is published then.

        Raises Interrupted, and WorkerFailed or a UserError where this worker is to blame and not the unit.
        """
        begun = time.monotonic()
        failures = self._units.failures(unit)
        last = len(failures) + 1 >= self._attempts
        culprits: list[dict[str, Any]] = []
        try:
            if last and any(self._units.error(unit, failed)["died"] for failed in failures):
                # The next death would end the attempts, so first find out at which document it happens.
                culprits = self._one_by_one(unit, attempt)
                if culprits:
                    raise Culprits("; ".join(one["error"] for one in culprits))
            content = self._content(self._plan.range(unit))
        except (Interrupted, ConfigError, RunError):
            raise
        except Exception as error:
            if last and not culprits:
                culprits = self._one_by_one(unit, attempt)
            line = one_line(error)
            self._progress(f"unit {unit}: attempt {len(failures) + 1} of {self._attempts} failed: {line}")
            trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            self.record(unit, attempt, line, trace=trace, culprits=culprits)
            self.failed[unit] += 1
            self._check_health(unit, attempt, error)
            return False
        self._units.finish(unit, content)
        self._good, self._in_a_row = unit, []
        self.seconds.append(time.monotonic() - begun)
        return True

    def record(
        self,
        unit: int,
        attempt: int,
        line: str,
        trace: str = "",
        culprits: list[dict[str, Any]] | None = None,
        died: bool = False,
    ) -> None:
        """Publish how an attempt ended."""
        documents = self._plan.range(unit)
        error = {
            "documents": [documents.start, documents.stop],
            "attempt": attempt,
            "recorded_by": str(self._process),
            "submission": self._process.submission,
            "died": died,
            "error": line,
            "culprits": culprits or [],
            "traceback": trace,
        }
        self._units.fail(unit, attempt, error)

    def _content(self, documents: range) -> bytes:
        """The rows of these documents as a part holds them."""
        rows = self._inference.rows(documents)
        if len(rows) != len(documents):
            raise ValueError(f"{len(rows)} rows came for {len(documents)} documents")
        return encode(rows, self._inference.schema)

    def _one_by_one(self, unit: int, attempt: int) -> list[dict[str, Any]]:
        """The documents of a unit that fail by themselves, with their errors; leaves word of the one it is at."""
        culprits = []
        for document in self._plan.range(unit):
            self._units.mark(unit, attempt, document)
            try:
                self._content(range(document, document + 1))
            except Interrupted:
                raise
            except Exception as error:
                culprits.append({"document": document, "error": one_line(error)})
        self._units.unmark(unit, attempt)
        return culprits

    def _check_health(self, unit: int, attempt: int, error: Exception) -> None:
        """After a row of failures: are the units to blame, or this worker? Raises the error where it is the worker."""
        self._in_a_row.append((unit, attempt))
        if len({unit for unit, _ in self._in_a_row}) < MAX_FAILURES_IN_A_ROW:
            return
        if self._good is not None:
            try:
                self._content(self._plan.range(self._good))
            except Interrupted:
                raise
            except Exception as again:
                error = again
            else:
                self._in_a_row = []
                return
        # What this worker failed does not count against the units.
        for one in self._in_a_row:
            self._units.release(*one)
        if isinstance(error, UserError):
            raise error
        raise WorkerFailed(
            f"{MAX_FAILURES_IN_A_ROW} units in a row failed in {self._process}, the last by {one_line(error)}"
        ) from error


def one_line(error: BaseException) -> str:
    """An error's class and the first line of its message."""
    message = str(error).strip().splitlines()
    return f"{type(error).__name__}: {message[0]}" if message else type(error).__name__
