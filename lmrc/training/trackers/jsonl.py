"""metrics.jsonl: one JSON object per optimizer step and per evaluation. Every run has it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lmrc.training.trackers.base import TrackedRun


class JsonlTracker:
    """Appends to metrics.jsonl. Unlike other trackers it records all JSON values, not only numbers."""

    def start(self, run: TrackedRun, config: dict[str, Any], resume_id: str | None) -> None:
        path = run.folder / "metrics.jsonl"
        drop_repeated(path, run.first_step, run.evaluation_due)
        self._file = path.open("a")

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()

    def finish(self) -> None:
        self._file.close()


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each line of metrics.jsonl and its content.

    A line that was cut off when the process was killed is left out.
    """
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        yield line, row


def drop_repeated(path: Path, step: int, evaluation_due: bool) -> None:
    """Drop the lines that a resume writes again, so that each step and each evaluation is in the file once.

    Args:
        path: metrics.jsonl; it may be missing.
        step: Optimizer steps done. Later lines are dropped.
        evaluation_due: Drop the evaluation after `step` too.
    """
    if not path.exists():
        return

    def is_done(row: dict[str, Any]) -> bool:
        is_evaluation = "loss" not in row
        return bool(row["step"] < step or (row["step"] == step and not (evaluation_due and is_evaluation)))

    kept = [line + "\n" for line, row in read_rows(path) if is_done(row)]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)
