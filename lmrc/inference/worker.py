"""One worker of a distributed inference: claims units, computes them, takes over from others, until none is left."""

from __future__ import annotations

import errno
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

STRAGGLER_FACTOR = 3.0
"""A unit that runs so many times longer than an idle worker's own did is computed by that worker too."""
LIVENESS_CHECKS = 16
"""Claims of others whose sign of life an idle worker looks at in one go: idle workers together see all."""
LONGEST_PAUSE = 15.0
"""Seconds between an idle worker's looks at most; less where the lease is short."""


class Worker:
    """Takes part while entered; gives the unit in hand back on the way out."""

    def __init__(
        self,
        units: Units,
        plan: WorkPlan,
        inference: Inference,
        options: WorkOptions,
        job: str | None,
        stop: Callable[[], bool],
        progress: Callable[[str], None],
    ) -> None:
        self._units, self._plan, self._options = units, plan, options
        self._stop, self._progress = stop, progress
        self._files: Files = units.files
        self._process = Process.current(job)
        self._card = units.folder / f"worker-{self._process.owner}"
        self._random = random.Random(self._process.owner)
        self._place = self._random.randrange(max(1, plan.units))
        self._current_claim: tuple[int, int] | None = None
        self._inference, self._is_loaded = inference, False
        self._attempts = Attempts(units, plan, inference, options.attempts, self._process, progress)
        self._reported = time.monotonic()

    def __enter__(self) -> Worker:
        self._units.look()
        self._begin_round()
        self._files.write(self._card, self._process.content())
        self._heartbeat = Heartbeat(self._beat, self._options.lease_seconds / 4)
        self._begun, self._done_before = time.monotonic(), len(self._units.done)
        if self._done_before:
            self._progress(f"{self._done_before} of {self._plan.units} units were done before")
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._give_back()
            self._files.remove(self._card)
        except OSError:
            pass  # The folder is gone or full: others will find this worker dead.
        finally:
            self._heartbeat.stop(self._options.lease_seconds)

    def _beat(self) -> bool:
        try:
            self._files.touch(self._card)
        except FileNotFoundError:
            return False
        except OSError:
            pass  # Tried again; if it lasts others take this worker for dead, and the first part wins.
        return True

    def _begin_round(self) -> None:
        """Forgive what failed in an earlier submission, where nobody is at work: the user asks to try again."""
        units = self._units
        # Only what was given up: an attempt that killed its worker must count when the worker comes back.
        failed = [unit for unit in units.unfinished() if len(units.failures(unit)) >= self._options.attempts]
        if not failed or any(self._lives(name) for name in sorted(units.workers)):
            return
        for unit in failed:
            for attempt in sorted(units.failures(unit)):
                submission = units.error(unit, attempt)["submission"]
                if submission is None or submission != self._process.submission:
                    units.release(unit, attempt)

    def _lives(self, card: str) -> bool:
        """Whether the worker of this card does, as far as one can tell before having a card of one's own."""
        path = self._units.folder / f".look.{self._process.owner}.tmp"
        try:
            self._files.write(path, b"")
            return self._sign(self._units.folder / card, self._files.touch(path)) is None
        except FileNotFoundError:
            return False
        finally:
            self._files.remove(path)

    def _sign(self, path: Path, now: float) -> str | None:
        """None where the process that the file tells of lives, else who it was."""
        content, beat = self._files.read(path)
        process = Process.parse(content)
        if now - beat > self._options.lease_seconds or (process and process.is_dead(self._process)):
            return str(process or "a process")
        return None

    def compute(self) -> None:
        """Work until every unit is done, or failed at every attempt. Raises Interrupted on `stop`."""
        pause = 0.0
        while True:
            self._check_stop()
            claimed = self._claim_fresh() or self._take_over()
            if claimed:
                pause = 0.0
                self._compute(*claimed)
                self._report()
            elif not self._waiting():
                return
            else:
                self._report()
                pause = min(max(0.05, pause * 1.6), LONGEST_PAUSE, self._options.lease_seconds / 4)
                self._sleep(pause * self._random.uniform(0.7, 1.0))

    def _compute(self, unit: int, attempt: int) -> None:
        try:
            if not self._is_loaded:
                # Outside of the attempts: a model that cannot be loaded is no failure of a unit.
                self._inference.load()
                self._is_loaded = True
            if not self._attempts.make(unit, attempt):
                # Whatever is wrong there may be wrong next door.
                self._place = self._random.randrange(self._plan.units)
        except Interrupted as interrupted:
            interrupted.args = interrupted.args if str(interrupted) else (self.stopped(),)
            raise
        self._current_claim = None

    def _check_stop(self) -> None:
        if self._stop():
            raise Interrupted(self.stopped())

    def stopped(self) -> str:
        """What to tell the user."""
        return (
            f"Stopped with {len(self._units.done)} of {self._plan.units} units done; "
            f"the same command goes on with the rest."
        )

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.25))
            self._check_stop()

    def _claim_fresh(self) -> tuple[int, int] | None:
        """Claim a unit that nobody has begun. Listed only when another was faster, so the common case is one link."""
        while True:
            unit = self._place
            if unit >= self._plan.units or self._units.taken(unit):
                free = [unit for unit in range(self._plan.units) if not self._units.taken(unit)]
                if not free:
                    return None
                unit = self._random.choice(free)
            if self._claim(unit, 1):
                self._place = (unit + 1) % self._plan.units
                return unit, 1
            self._units.look()

    def _claim(self, unit: int, attempt: int) -> bool:
        path = self._units.path("claim", unit, attempt)
        self._current_claim = unit, attempt
        try:
            won = self._files.link(self._card, path)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            # A file may have tens of thousands of names: go on with another card.
            self._card = self._card.with_name(f"worker-{Process.current(None).owner}")
            self._files.write(self._card, self._process.content())
            won = self._files.link(self._card, path)
        if not won:
            self._current_claim = None
        self._units.claimed(unit, attempt, time.monotonic())
        return won

    def _take_over(self) -> tuple[int, int] | None:
        """Claim a unit whose worker failed, gave it back, died, or is slow."""
        units = self._units
        self._files.refresh(units.folder)
        units.look()
        unfinished = units.unfinished()
        self._random.shuffle(unfinished)
        # What failed in this worker is better tried by another.
        unfinished.sort(key=lambda unit: self._attempts.failed[unit])
        glances, now = 0, None
        for unit in unfinished:
            running = units.running(unit)
            if running and glances < LIVENESS_CHECKS:
                now = self._files.touch(self._card) if now is None else now
                glances += 1
                running = [attempt for attempt in running if not self._mark_dead(unit, attempt, now)]
                if len(running) == 1 and self._slow(unit):
                    self._progress(f"unit {unit} takes long elsewhere: it is done here too, and the first one counts")
                    running = []
            if not running and len(units.failures(unit)) < self._options.attempts:
                attempt = units.attempts[unit] + 1
                if not self._finished(unit) and self._claim(unit, attempt):
                    return unit, attempt
        return None

    def _finished(self, unit: int) -> bool:
        """Ask the server itself, before work is done twice on the word of an old listing."""
        try:
            self._files.read(self._units.path("part", unit, suffix=".arrow"))
        except FileNotFoundError:
            return False
        self._units.done.add(unit)
        return True

    def _mark_dead(self, unit: int, attempt: int, now: float) -> bool:
        """Publish the death of an attempt's worker, if it is dead."""
        who = self._sign(self._units.path("claim", unit, attempt), now)
        if who is None:
            return False
        if not self._finished(unit):
            self._progress(f"unit {unit}: {who} died at attempt {attempt}; taken over")
            self._attempts.record(unit, attempt, f"{who} died", died=True)
        return True

    def _slow(self, unit: int) -> bool:
        usual = self._attempts.usual_seconds()
        if usual is None:
            return False
        limit = max(STRAGGLER_FACTOR * usual, self._options.lease_seconds)
        return time.monotonic() - self._units.seen[unit] > limit

    def _waiting(self) -> bool:
        """Whether others are at work on what is not done, or may still be."""
        units = self._units
        return any(
            units.running(unit) or len(units.failures(unit)) < self._options.attempts for unit in units.unfinished()
        )

    def _give_back(self) -> None:
        if self._current_claim is None:
            return
        unit, attempt = self._current_claim
        # Interrupted around the link itself, it may never have been ours.
        if self._files.same(self._card, self._units.path("claim", unit, attempt)):
            self._units.release(unit, attempt)
        self._current_claim = None

    def _report(self) -> None:
        """A line a minute."""
        now = time.monotonic()
        if now - self._reported < 60:
            return
        self._reported = now
        self._units.look()
        done, all_units = len(self._units.done), self._plan.units
        new = done - self._done_before
        left = f", about {(all_units - done) * (now - self._begun) / new / 60:.0f} min left" if new else ""
        self._progress(f"{done} of {all_units} units done, {len(self._attempts.seconds)} of them here{left}")
