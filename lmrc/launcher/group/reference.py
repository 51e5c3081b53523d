"""Predictions that a group is compared with: those of a run, of a pipeline, or of another group."""

from __future__ import annotations

from pathlib import Path

from lmrc.evaluation.scored_run import PREDICTIONS
from lmrc.launcher.group.record import GROUP, Group


def prediction_files(path: Path) -> list[Path]:
    """Return the file of predictions at `path`, or the run folders with predictions at or in it; empty without any.

    Args:
        path: a file, or the folder of a run, of a pipeline, or of a group, whose members are its seeds.
    """
    if path.is_file():
        return [path]
    if (path / GROUP).is_file():
        folders = [path / member.name for member in Group.read(path / GROUP).members]
        return [run for folder in folders for run in prediction_files(folder)]
    return [run for run in (path, path / "classify") if (run / PREDICTIONS).is_file()][:1]
