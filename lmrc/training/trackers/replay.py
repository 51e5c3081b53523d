"""Copies the metrics of a run to a tracker that the training did not use."""

from __future__ import annotations

import json
from pathlib import Path

from lmrc.common.atomic_io import write_atomically
from lmrc.common.errors import RunError
from lmrc.runs.lease import holder
from lmrc.runs.run_folder import RunFolder
from lmrc.training.trackers.base import TrackedRun, check_trackers, make_tracker, start_tracker
from lmrc.training.trackers.jsonl import read_rows

# Values in metrics.jsonl that are not metrics.
NOT_METRICS = ("step", "epoch", "examples")


def replay(folder: Path, name: str) -> int:
    """Log the rows of metrics.jsonl to a new run of a tracker. A training that resumes later continues that run.

    A run that W&B recorded offline keeps its id, and only rows that were not sent before are sent.

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
    keeps_id = name == "wandb" and was_offline(folder)
    sent_path = folder / "log" / "sent.json"
    sent: dict[str, int] = json.loads(sent_path.read_text()) if sent_path.exists() else {}
    total = len(rows)
    rows = rows[sent.get(name, 0) :] if keeps_id else rows
    syncs = keeps_id or name == "mlflow"
    tracker = make_tracker(name)
    start_tracker(name, tracker, TrackedRun(folder, first_step=-1, syncs=syncs), new=not keeps_id)
    try:
        for row in rows:
            tracker.log(row["step"], {key: value for key, value in row.items() if key not in NOT_METRICS})
    finally:
        tracker.finish()
    if keeps_id:
        write_atomically(sent_path, json.dumps({**sent, name: total}) + "\n")
    return len(rows)


def was_offline(folder: Path) -> bool:
    """Return True if the training used W&B, which recorded all of its starts offline."""
    if "wandb" not in (RunFolder(folder).recorded("train.trackers") or ()):
        return False
    kinds = {path.name.partition("-")[0] for path in (folder / "log" / "wandb").glob("*run-*")}
    return kinds == {"offline"}
