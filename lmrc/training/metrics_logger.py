"""The metrics logger of a training: trackers, log/progress.json for `lmrc status`, a progress bar and log lines."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lmrc.common.errors import RunError
from lmrc.training.trackers.base import TrackedRun, Tracker, make_tracker, start_tracker
from lmrc.training.trackers.jsonl import JsonlTracker
from lmrc.usage.meter import UseMeter
from lmrc.usage.record import GIB, use_figures

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 60.0
# The first line of a log comes sooner, to show that the training runs.
SECONDS_UNTIL_LINE = 10.0
# Evaluations, which are part of the time left, come more often than this in most trainings.
PACE_SECONDS = 300.0
SECONDS_BETWEEN_PROGRESS = 5.0
# Figures of the use that grow with time, and so say nothing about a minute.
TOTALS = ("gpu_hours", "core_hours", "kwh")

# Trackers that write plain files into the run folder. A training ends if they fail, but not if another tracker does.
FILE_TRACKERS = ("jsonl", "tensorboard")


def clock(seconds: float) -> str:
    """Return a duration such as 0:42, 12:05 or 3:20:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class _Pace:
    """Speed of the last minutes, so that a pause or a busy machine does not change the time left for the whole run.

    Args:
        step: Optimizer steps that are done.
        now: Seconds of a monotonic clock.
    """

    def __init__(self, step: int, now: float) -> None:
        self._units = 0
        # Time, step and units so far, about once per second.
        self._samples = deque([(now, step, 0)])

    def add(self, now: float, step: int, units: int) -> tuple[float, float]:
        """Count a step. Return the units per second and the seconds per step of the last `PACE_SECONDS`."""
        self._units += units
        while len(self._samples) > 1 and self._samples[1][0] <= now - PACE_SECONDS:
            self._samples.popleft()
        then, first, before = self._samples[0]
        seconds = max(now - then, 1e-9)
        speed = (self._units - before) / seconds, seconds / max(step - first, 1)
        if now - self._samples[-1][0] >= 1:
            self._samples.append((now, step, self._units))
        return speed


class MetricsLogger:
    """Sends the metrics of a training to all trackers and shows progress. Only rank 0 has one.

    Args:
        folder: The run folder.
        first_step: Optimizer steps that are done.
        evaluation_due: True if the evaluation after `first_step` is made again.
        total_steps: Optimizer steps of the whole training.
        unit: The unit of throughput: "documents" or "tokens".
        trackers: Names of the trackers besides metrics.jsonl (`train.trackers`).
        meter: Measures the use of the hardware; its figures are logged once a minute.

    Raises:
        RunError: metrics.jsonl or tensorboard/ cannot be written; also by the methods that log.
    """

    def __init__(
        self,
        folder: Path,
        first_step: int,
        evaluation_due: bool,
        total_steps: int,
        unit: str,
        trackers: Iterable[str] = ("tensorboard",),
        meter: UseMeter | None = None,
    ) -> None:
        self._folder, self._meter = folder, meter
        self._progress_path = folder / "log" / "progress.json"
        self._trackers: dict[str, Tracker] = {}
        run = TrackedRun(folder, first_step, evaluation_due)
        self._guard("jsonl", lambda: self._progress_path.parent.mkdir(exist_ok=True))
        for name in ("jsonl", *trackers):
            self._guard(name, partial(self._start, name, run))
        self._unit = unit
        self._total = total_steps
        now = time.monotonic()
        self._pace = _Pace(first_step, now)
        self._last_line = now - SECONDS_BETWEEN_LINES + SECONDS_UNTIL_LINE
        self._dev = self._memory = ""
        self._bar = tqdm(total=total_steps, initial=first_step, unit="step", disable=not sys.stderr.isatty())
        self._progress: dict[str, str | int | float] = {}
        self._last_progress = -SECONDS_BETWEEN_PROGRESS

    def _start(self, name: str, run: TrackedRun) -> None:
        tracker = JsonlTracker() if name == "jsonl" else make_tracker(name)
        start_tracker(name, tracker, run)
        self._trackers[name] = tracker

    def _guard(self, name: str, act: Callable[[], None]) -> None:
        """Call a tracker. If it fails, raise RunError for the files of the run; else go on without that tracker."""
        try:
            act()
        except Exception as error:
            if name not in FILE_TRACKERS:
                self._trackers.pop(name, None)
                logger.warning(
                    "%s failed (%s: %s), so the training goes on without it; afterwards type lmrc track %s --to %s",
                    name,
                    type(error).__name__,
                    error,
                    self._folder,
                    name,
                )
                return
            if not isinstance(error, OSError):
                raise
            # Not in the pre-flight: the disk may fail at any time.
            raise RunError(
                f"rank 0 on {socket.gethostname()}: cannot write metrics.jsonl and tensorboard/ in {self._folder}: "
                f"{error.strerror or error}; free space or correct the permissions, then repeat"
            ) from None

    def log_step(
        self, step: int, epoch: int, examples: list[int], loss: float, rate: float, norm: float, units: int
    ) -> None:
        """Log an optimizer step.

        Args:
            step: The step, from 1.
            epoch: The epoch, from 0.
            examples: Indices of the global batch. They show that a resume skips and repeats no example.
            loss: Mean loss of the global batch.
            rate: Learning rate as a share of its peak.
            norm: Norm of the gradient before clipping.
            units: Documents or tokens of the global batch.
        """
        now = time.monotonic()
        speed, seconds_per_step = self._pace.add(now, step, units)
        metrics = {"loss": loss, "rate": rate, "gradient_norm": norm, self._unit: units}
        self._log(step, {"epoch": epoch, "examples": examples, **metrics}, ["jsonl"])
        self._log(step, {**metrics, f"{self._unit}_per_second": speed}, self._others())
        seconds_left = seconds_per_step * (self._total - step)
        self._progress = {
            **{"step": step, "total": self._total, "epoch": epoch, "loss": loss},
            **{"unit": self._unit, "per_second": speed, "seconds_left": seconds_left, "time": time.time()},
        }
        if now - self._last_progress > SECONDS_BETWEEN_PROGRESS:
            self._last_progress = now
            self._write_progress()
        self._log_use(step)
        self._bar.set_postfix_str(f"loss {loss:.3f}{self._dev}, {speed:.1f} {self._unit}/s", refresh=False)
        self._bar.update()
        if self._bar.disable and (now - self._last_line > SECONDS_BETWEEN_LINES or step == self._total):
            self._last_line = now
            learning = f"loss {loss:.3f}{self._dev}, gradient norm {norm:.2f}, learning rate {100 * rate:.0f} %"
            running = f"{speed:.1f} {self._unit}/s{self._memory}, {clock(seconds_left)} left"
            logger.info(f"step {step}/{self._total} (epoch {epoch + 1}), {learning}, {running}")

    def log_eval(self, step: int, metrics: dict[str, float], metric: str, best: bool) -> None:
        """Log the evaluation after `step` steps.

        Args:
            step: Optimizer steps done.
            metrics: Dev metrics by name.
            metric: The one that chooses the best weights.
            best: True if its value is the best so far.
        """
        self._log(step, {f"dev_{name}": value for name, value in metrics.items()}, ["jsonl", *self._others()])
        self._dev = f", dev {metric} {metrics[metric]:.2f}"
        values = ", ".join(f"{name} {value:.2f}" for name, value in metrics.items())
        logger.info(f"step {step}/{self._total}: dev {values}{' (best so far)' if best else ''}")

    def _log_use(self, step: int) -> None:
        """Record the use of the hardware, and log the figures of the last minute."""
        if self._meter is None:
            return
        self._meter.record(self._folder)
        window = self._meter.window()
        if window is not None:
            if window.memory:
                self._memory = f", {window.memory / GIB:.1f} GiB per GPU"
            figures = use_figures([window])
            rates = {name: value for name, value in figures.items() if isinstance(value, float)}
            shares = {f"share_{part}": share for part, share in figures.get("shares", {}).items()}
            metrics = {f"use_{name}": value for name, value in {**rates, **shares}.items() if name not in TOTALS}
            self._log(step, metrics, ["jsonl", *self._others()])

    def _others(self) -> list[str]:
        return [name for name in self._trackers if name != "jsonl"]

    def _log(self, step: int, metrics: Mapping[str, Any], names: Iterable[str]) -> None:
        for name in names:
            self._guard(name, partial(self._trackers[name].log, step, metrics))

    def _write_progress(self) -> None:
        # Only for display: it needs no fsync, and a full disk must not end the training here.
        temporary = self._progress_path.with_suffix(".tmp")
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(self._progress) + "\n")
            temporary.replace(self._progress_path)

    def close(self) -> None:
        """Write the last progress and close all trackers."""
        if self._progress:
            self._write_progress()
        self._bar.close()
        for name in (*self._others(), "jsonl"):
            # Lines were flushed as they were written. An error raised then must not be replaced by one of closing.
            with contextlib.suppress(RunError):
                self._guard(name, self._trackers[name].finish)
