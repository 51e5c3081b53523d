"""Copies the metrics of a run to a tracker that the training did not use."""

from __future__ import annotations

from pathlib import Path

from lmrc.common.errors import RunError
from lmrc.runs.lease import holder
from lmrc.training.trackers.base import TrackedRun, check_trackers, make_tracker, start_tracker
from lmrc.training.trackers.jsonl import read_rows

# Values in metrics.jsonl that are not metrics.
NOT_METRICS = ("step", "epoch", "examples")


def replay(folder: Path, name: str) -> int:
    """Log all rows of metrics.jsonl to a new run of a tracker. A training that resumes later continues that run.

    Args:
        folder: The run folder.
        name: The tracker, such as "wandb".

    Returns:
        The number of rows.

    Raises:
        ConfigError: The tracker's package is not installed.
        RunError: The run has no metrics, or is training now.
    """
    check_trackers([name])
    path = folder / "metrics.jsonl"
    rows = [row for _, row in read_rows(path)] if path.is_file() else []
    if not rows:
        raise RunError(f"{path} holds no metrics: give the folder of a training, such as runs/rcp")
    if holder(folder) is not None:
        raise RunError(f"{folder} is training now: repeat the command once it has ended")
    (folder / "log").mkdir(exist_ok=True)
    tracker = make_tracker(name)
    start_tracker(name, tracker, TrackedRun(folder, first_step=-1), new=True)
    try:
        for row in rows:
            tracker.log(row["step"], {key: value for key, value in row.items() if key not in NOT_METRICS})
    finally:
        tracker.finish()
    return len(rows)
