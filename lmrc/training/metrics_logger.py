"""What a training tells: metrics.jsonl, TensorBoard, progress for `lmrc status`, a bar or a line a minute to people."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from lmrc.common.errors import RunError

SECONDS_BETWEEN_LINES = 60.0
SECONDS_BETWEEN_PROGRESS = 5.0


def clock(seconds: float) -> str:
    """A duration as people read it: 0:42, 12:05, 3:20:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def keep_until(path: Path, step: int, evaluation_due: bool) -> None:
    """Drop what will be made again: the lines after `step`, and its evaluation's where that is due.

    So each step and each evaluation stand in the file once.
    """
    if not path.exists():
        return
    lines = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
            is_done = row["step"] <= step and not (row["step"] == step and evaluation_due and "loss" not in row)
        except ValueError:
            continue  # the line that was being written when the process was killed
        if is_done:
            lines.append(line + "\n")
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(lines))
    temporary.replace(path)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # Not in the pre-flight: the disk may fail at any time.
        raise RunError(
            f"rank 0 on {socket.gethostname()}: cannot write metrics.jsonl and tensorboard/ in {folder}: "
            f"{error.strerror or error}; free space or mend the permissions, then repeat"
        ) from None


class MetricsLogger:
    """Written by rank 0 only. Raises RunError where the disk refuses."""

    def __init__(self, folder: Path, first_step: int, evaluation_due: bool, total_steps: int, unit: str) -> None:
        """`first_step` steps are done, the last one's evaluation unless `evaluation_due`."""
        self._folder = folder
        self._progress_path = folder / "log" / "progress.json"
        with _writing(folder):
            keep_until(folder / "metrics.jsonl", first_step, evaluation_due)
            self._file = (folder / "metrics.jsonl").open("a")
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)
            self._progress_path.parent.mkdir(exist_ok=True)
        self._unit = unit
        self._total = total_steps
        self._first = first_step
        self._start = self._last_line = time.monotonic()
        self._units = 0
        self._dev = ""
        self._bar = tqdm(total=total_steps, initial=first_step, unit="step", disable=not sys.stderr.isatty())
        self._progress: dict[str, str | int | float] = {}
        self._last_progress = -SECONDS_BETWEEN_PROGRESS

    def log_step(
        self, step: int, epoch: int, examples: list[int], loss: float, rate: float, norm: float, units: int
    ) -> None:
        """One optimizer step (from 1): `examples` of its batch, mean loss, learning rate scale, gradient norm, `units`.

        That each step stands there once, with the same examples, shows that nothing was skipped or seen twice.
        """
        now = time.monotonic()
        self._units += units
        speed = self._units / max(now - self._start, 1e-9)
        figures = {"loss": loss, "rate": rate, "gradient_norm": norm, self._unit: units}
        self._write(step, figures, epoch=epoch, examples=examples)
        with _writing(self._folder):
            self._board.add_scalar(f"{self._unit}_per_second", speed, step)
        left = (now - self._start) / (step - self._first) * (self._total - step)
        self._progress = {
            **{"step": step, "total": self._total, "epoch": epoch, "loss": loss},
            **{"unit": self._unit, "per_second": speed, "seconds_left": left, "time": time.time()},
        }
        if now - self._last_progress > SECONDS_BETWEEN_PROGRESS:
            self._last_progress = now
            self._write_progress()
        self._bar.set_postfix_str(f"loss {loss:.3f}{self._dev}, {speed:.1f} {self._unit}/s", refresh=False)
        self._bar.update()
        if self._bar.disable and (now - self._last_line > SECONDS_BETWEEN_LINES or step == self._total):
            self._last_line = now
            self.print(
                f"step {step}/{self._total} (epoch {epoch + 1}), loss {loss:.3f}{self._dev}, "
                f"{speed:.1f} {self._unit}/s, {clock(left)} left"
            )

    def log_eval(self, step: int, metrics: dict[str, float], metric: str, best: bool) -> None:
        """An evaluation after `step` steps."""
        self._write(step, {f"dev_{name}": value for name, value in metrics.items()})
        self._dev = f", dev {metric} {metrics[metric]:.2f}"
        figures = ", ".join(f"{name} {value:.2f}" for name, value in metrics.items())
        self.print(f"step {step}/{self._total}: dev {figures}{' (best so far)' if best else ''}")

    def _write(self, step: int, figures: dict[str, float], **more: Any) -> None:
        with _writing(self._folder):
            self._file.write(json.dumps({"step": step, **more, **figures}) + "\n")
            self._file.flush()
            for name, value in figures.items():
                self._board.add_scalar(name, value, step)

    def _write_progress(self) -> None:
        # For the eye alone: not worth an fsync, nor the end of a training whose disk is full.
        temporary = self._progress_path.with_suffix(".tmp")
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(self._progress) + "\n")
            temporary.replace(self._progress_path)

    def print(self, line: str) -> None:
        """A line that stays on the terminal."""
        self._bar.write(line, file=sys.stdout)
        sys.stdout.flush()

    def close(self) -> None:
        """Flush and close everything."""
        if self._progress:
            self._write_progress()
        self._bar.close()
        # Every line was flushed when it was written: what fails here has been told of, and must not take its place.
        for opened in (self._board, self._file):
            with contextlib.suppress(OSError):
                opened.close()
