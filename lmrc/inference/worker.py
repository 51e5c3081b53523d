"""A worker of a distributed inference: claims units, computes them, and takes over those of other workers."""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import Callable
from pathlib import Path

from lmrc.common.exit_codes import Interrupted
from lmrc.config.schema import WorkOptions
from lmrc.inference.protocol import Inference
from lmrc.inference.retries import Attempts
from lmrc.inference.work_units import Units, WorkPlan
from lmrc.runs.heartbeat import Heartbeat, Process
from lmrc.runs.shared_fs import Files

logger = logging.getLogger(__name__)

# An idle worker also computes a unit that takes another worker this many times longer than its own median unit.
STRAGGLER_FACTOR = 3.0
# Claims whose heartbeat an idle worker checks at once. Idle workers check in random order, so together they check all.
LIVENESS_CHECKS = 16
# Longest time in seconds between two checks of an idle worker.
LONGEST_PAUSE = 15.0


class Worker:
    """A worker with a heartbeat, as a context manager. On exit it releases its current unit.

    Its arguments are those of `lmrc.inference.run_worker.work`.
    """

    def __init__(
        self,
        units: Units,
        plan: WorkPlan,
        inference: Inference,
        options: WorkOptions,
        job: str | None,
        stop: Callable[[], bool],
    ) -> None:
        self._units, self._plan, self._options = units, plan, options
        self._stop = stop
        self._files: Files = units.files
        self._process = Process.current(job)
        self._worker_file = units.folder / f"worker-{self._process.owner}"
        self._random = random.Random(self._process.owner)
        self._next_unit = self._random.randrange(max(1, plan.units))
        self._current_claim: tuple[int, int] | None = None
        self._inference, self._is_loaded = inference, False
        self._attempts = Attempts(units, plan, inference, options.attempts, self._process)
        self._reported = time.monotonic()

    def __enter__(self) -> Worker:
        self._units.look()
        self._retry_failures_of_earlier_submissions()
        self._files.write(self._worker_file, self._process.content())
        self._heartbeat = Heartbeat(self._beat, self._options.lease_seconds / 4)
        self._begun, self._done_before = time.monotonic(), len(self._units.done)
        if self._done_before:
            logger.info(f"{self._done_before} of {self._plan.units} units were done before")
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._release_current_claim()
            self._files.remove(self._worker_file)
        except OSError:
            pass  # the folder is gone or the disk is full; others will find this worker dead
        finally:
            self._heartbeat.stop(self._options.lease_seconds)

    def _beat(self) -> bool:
        try:
            self._files.touch(self._worker_file)
        except FileNotFoundError:
            return False
        except OSError:
            pass  # the next beat tries again; if others meanwhile take over the unit, the first part stays
        return True

    def _retry_failures_of_earlier_submissions(self) -> None:
        """Release units that failed at every attempt, if no worker is alive: the user repeated the command."""
        units = self._units
        # Not units with attempts left: an attempt that killed its worker must count when the worker restarts.
        failed = [unit for unit in units.unfinished() if len(units.failures(unit)) >= self._options.attempts]
        if not failed or any(self._is_alive(name) for name in sorted(units.workers)):
            return
        for unit in failed:
            for attempt in sorted(units.failures(unit)):
                submission = units.error(unit, attempt)["submission"]
                if submission is None or submission != self._process.submission:
                    units.release(unit, attempt)

    def _is_alive(self, worker_file: str) -> bool:
        """Return True if a worker is alive. Needs no own worker file."""
        path = self._units.folder / f".look.{self._process.owner}.tmp"
        try:
            self._files.write(path, b"")
            return self._dead_process(self._units.folder / worker_file, self._files.touch(path)) is None
        except FileNotFoundError:
            return False
        finally:
            self._files.remove(path)

    def _dead_process(self, path: Path, now: float) -> str | None:
        """Return a description of the process of a worker file or claim if it is dead; None if it is alive.

        Args:
            path: The worker file or claim.
            now: The current time by the file server's clock.
        """
        content, beat = self._files.read(path)
        process = Process.parse(content)
        if now - beat > self._options.lease_seconds or (process and process.is_dead(self._process)):
            return str(process or "a process")
        return None

    def compute(self) -> None:
        """Compute units until each is done or failed at every attempt.

        Raises:
            Interrupted: It was asked to stop.
        """
        pause = 0.0
        while True:
            self._check_stop()
            claim = self._claim_free_unit() or self._take_over()
            if claim:
                pause = 0.0
                logger.debug(f"unit {claim[0]}: attempt {claim[1]} begins here")
                self._compute(*claim)
                self._report()
            elif not self._may_become_free():
                return
            else:
                self._report()
                pause = min(max(0.05, pause * 1.6), LONGEST_PAUSE, self._options.lease_seconds / 4)
                self._sleep(pause * self._random.uniform(0.7, 1.0))

    def _compute(self, unit: int, attempt: int) -> None:
        try:
            if not self._is_loaded:
                # Outside of the attempt: if the model cannot be loaded, no unit has failed.
                self._inference.load()
                self._is_loaded = True
            if not self._attempts.compute(unit, attempt):
                # The next units may fail for the same reason, so continue elsewhere.
                self._next_unit = self._random.randrange(self._plan.units)
        except Interrupted as interrupted:
            interrupted.args = interrupted.args if str(interrupted) else (self._stop_message(),)
            raise
        self._current_claim = None

    def _check_stop(self) -> None:
        if self._stop():
            raise Interrupted(self._stop_message())

    def _stop_message(self) -> str:
        return (
            f"Stopped with {len(self._units.done)} of {self._plan.units} units done; "
            f"the same command goes on with the rest."
        )

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.25))
            self._check_stop()

    def _claim_free_unit(self) -> tuple[int, int] | None:
        """Claim a unit that was never claimed, and return it with the attempt's number; None if there is none."""
        while True:
            unit = self._next_unit
            if unit >= self._plan.units or self._units.was_claimed(unit):
                free = [unit for unit in range(self._plan.units) if not self._units.was_claimed(unit)]
                if not free:
                    return None
                unit = self._random.choice(free)
            if self._claim(unit, 1):
                self._next_unit = (unit + 1) % self._plan.units
                return unit, 1
            # List the folder only if another worker was faster, so that a claim usually costs one link.
            self._units.look()

    def _claim(self, unit: int, attempt: int) -> bool:
        path = self._units.path("claim", unit, attempt)
        self._current_claim = unit, attempt
        try:
            won = self._files.link(self._worker_file, path)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            # The file system limits the links of a file, so continue with a new worker file.
            self._worker_file = self._worker_file.with_name(f"worker-{Process.current(None).owner}")
            self._files.write(self._worker_file, self._process.content())
            won = self._files.link(self._worker_file, path)
        if not won:
            self._current_claim = None
        self._units.note_claim(unit, attempt, time.monotonic())
        return won

    def _take_over(self) -> tuple[int, int] | None:
        """Claim a unit whose worker failed, released it, died or is slow, and return it with the attempt's number."""
        units = self._units
        self._files.refresh(units.folder)
        units.look()
        unfinished = units.unfinished()
        self._random.shuffle(unfinished)
        # Units that failed in this worker come last, so that other workers try them.
        unfinished.sort(key=lambda unit: self._attempts.failed[unit])
        checks, now = 0, None
        for unit in unfinished:
            running = units.running(unit)
            if running and checks < LIVENESS_CHECKS:
                now = self._files.touch(self._worker_file) if now is None else now
                checks += 1
                running = [attempt for attempt in running if not self._mark_dead(unit, attempt, now)]
                if len(running) == 1 and self._is_straggler(unit):
                    logger.info(f"unit {unit} takes long elsewhere: it is computed here too, and the first one counts")
                    running = []
            if not running and len(units.failures(unit)) < self._options.attempts:
                attempt = units.attempts[unit] + 1
                if not self._is_finished(unit) and self._claim(unit, attempt):
                    return unit, attempt
        return None

    def _is_finished(self, unit: int) -> bool:
        """Return True if the unit's part exists. Asks the file server, because the listing may be old."""
        try:
            self._files.read(self._units.path("part", unit, suffix=".arrow"))
        except FileNotFoundError:
            return False
        self._units.done.add(unit)
        return True

    def _mark_dead(self, unit: int, attempt: int, now: float) -> bool:
        """Publish that an attempt's worker died. Return False if it is alive."""
        process = self._dead_process(self._units.path("claim", unit, attempt), now)
        if process is None:
            return False
        if not self._is_finished(unit):
            logger.warning(f"unit {unit}: {process} died at attempt {attempt}; taken over")
            self._attempts.record(unit, attempt, f"{process} died", died=True)
        return True

    def _is_straggler(self, unit: int) -> bool:
        median = self._attempts.median_seconds()
        if median is None:
            return False
        limit = max(STRAGGLER_FACTOR * median, self._options.lease_seconds)
        return time.monotonic() - self._units.seen[unit] > limit

    def _may_become_free(self) -> bool:
        """Return True if a unit is running or has attempts left, so that this worker may still get it."""
        units = self._units
        return any(
            units.running(unit) or len(units.failures(unit)) < self._options.attempts for unit in units.unfinished()
        )

    def _release_current_claim(self) -> None:
        if self._current_claim is None:
            return
        unit, attempt = self._current_claim
        # If the interruption came during the link, the claim may belong to another worker.
        if self._files.same(self._worker_file, self._units.path("claim", unit, attempt)):
            self._units.release(unit, attempt)
        self._current_claim = None

    def _report(self) -> None:
        """Log the progress once per minute."""
        now = time.monotonic()
        if now - self._reported < 60:
            return
        self._reported = now
        self._units.look()
        done, total = len(self._units.done), self._plan.units
        new = done - self._done_before
        left = f", about {(total - done) * (now - self._begun) / new / 60:.0f} min left" if new else ""
        logger.info(f"{done} of {total} units done, {len(self._attempts.seconds)} of them here{left}")
