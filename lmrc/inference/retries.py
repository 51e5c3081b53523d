"""Attempts at a unit: compute its rows, and if that fails find the documents that cause it."""

from __future__ import annotations

import logging
import statistics
import time
import traceback
from collections import Counter
from typing import Any

from lmrc.common.errors import ConfigError, RunError, UserError
from lmrc.common.exit_codes import Interrupted
from lmrc.inference.protocol import Inference
from lmrc.inference.work_units import Units, WorkPlan, encode
from lmrc.runs.heartbeat import Process

logger = logging.getLogger(__name__)

# Units that may fail in a row before the worker checks itself: with a lost GPU every unit fails.
MAX_FAILURES_IN_A_ROW = 5


class DocumentsFailed(Exception):
    """Documents of a unit that failed when each was computed alone."""


class WorkerFailed(Exception):
    """A worker in which every unit fails, although other workers may compute them."""


class Attempts:
    """The attempts of one worker.

    Args:
        max_attempts: Attempts per unit, by all workers together.

    Attributes:
        seconds: Duration of each unit that this worker finished.
        failed: Number of attempts that failed in this worker, by unit.
    """

    def __init__(
        self,
        units: Units,
        plan: WorkPlan,
        inference: Inference,
        max_attempts: int,
        process: Process,
    ) -> None:
        self._units, self._plan, self._inference, self._max_attempts = units, plan, inference, max_attempts
        self._process = process
        self.seconds: list[float] = []
        self.failed: Counter[int] = Counter()
        self._last_finished: int | None = None
        self._failures_in_a_row: list[tuple[int, int]] = []

    def median_seconds(self) -> float | None:
        """Return the median duration of a unit in this worker; None if it finished none."""
        return statistics.median(self.seconds) if self.seconds else None

    def compute(self, unit: int, attempt: int) -> bool:
        """Compute a unit, and publish its rows or its failure.

        Returns:
            True if the rows are published.

        Raises:
            Interrupted: A signal asks to stop.
            WorkerFailed: Every unit fails in this worker.
            UserError: The config or the run folder is wrong, so every unit would fail.
        """
        begun = time.monotonic()
        failures = self._units.failures(unit)
        is_last = len(failures) + 1 >= self._max_attempts
        culprits: list[dict[str, Any]] = []
        try:
            if is_last and any(self._units.error(unit, failed)["died"] for failed in failures):
                # This attempt may kill the worker too, so first record which document it is at.
                culprits = self._find_culprits(unit, attempt)
                if culprits:
                    raise DocumentsFailed("; ".join(culprit["error"] for culprit in culprits))
            content = self._encoded_rows(self._plan.range(unit))
        except (Interrupted, ConfigError, RunError):
            raise
        except Exception as error:
            if is_last and not culprits:
                culprits = self._find_culprits(unit, attempt)
            line = one_line(error)
            logger.warning(f"unit {unit}: attempt {len(failures) + 1} of {self._max_attempts} failed: {line}")
            trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            self.record(unit, attempt, line, trace=trace, culprits=culprits)
            self.failed[unit] += 1
            self._check_health(unit, attempt, error)
            return False
        self._units.finish(unit, content)
        self._last_finished, self._failures_in_a_row = unit, []
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
        """Publish the failure of an attempt.

        Args:
            line: The error in one line.
            trace: The traceback.
            culprits: The documents that fail alone, each with its error.
            died: True if the worker of the attempt died.
        """
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

    def _encoded_rows(self, documents: range) -> bytes:
        rows = self._inference.rows(documents)
        if len(rows) != len(documents):
            raise ValueError(f"{len(rows)} rows came for {len(documents)} documents")
        return encode(rows, self._inference.schema)

    def _find_culprits(self, unit: int, attempt: int) -> list[dict[str, Any]]:
        """Return the documents of a unit that fail alone, with their errors. The current document is on the disk."""
        culprits = []
        for document in self._plan.range(unit):
            self._units.mark(unit, attempt, document)
            try:
                self._encoded_rows(range(document, document + 1))
            except Interrupted:
                raise
            except Exception as error:
                culprits.append({"document": document, "error": one_line(error)})
        self._units.unmark(unit, attempt)
        return culprits

    def _check_health(self, unit: int, attempt: int, error: Exception) -> None:
        """After several failures in a row, check this worker by computing a unit that it finished before.

        Raises:
            WorkerFailed: That unit fails too, or no unit was ever finished. The failures no longer count.
            UserError: The same, if the last error is a user's mistake.
        """
        self._failures_in_a_row.append((unit, attempt))
        if len({unit for unit, _ in self._failures_in_a_row}) < MAX_FAILURES_IN_A_ROW:
            return
        if self._last_finished is not None:
            try:
                self._encoded_rows(self._plan.range(self._last_finished))
            except Interrupted:
                raise
            except Exception as again:
                error = again
            else:
                self._failures_in_a_row = []
                return
        for failed_unit, failed_attempt in self._failures_in_a_row:
            self._units.release(failed_unit, failed_attempt)
        if isinstance(error, UserError):
            raise error
        raise WorkerFailed(
            f"{MAX_FAILURES_IN_A_ROW} units in a row failed in {self._process}, the last by {one_line(error)}"
        ) from error


def one_line(error: BaseException) -> str:
    """Return the class of an error and the first line of its message."""
    message = str(error).strip().splitlines()
    return f"{type(error).__name__}: {message[0]}" if message else type(error).__name__
