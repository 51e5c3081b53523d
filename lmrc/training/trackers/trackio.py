"""Trackio runs in log/trackio of the run folder; `TRACKIO_DIR=RUN/log/trackio trackio show` opens the dashboard."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from typing import Any

from lmrc.training.trackers.base import PROJECT, TrackedRun


class TrackioTracker:
    """A Trackio run. Trackio identifies a run by its name."""

    def start(self, run: TrackedRun, config: dict[str, Any], resume_id: str | None) -> str:
        # Trackio reads TRACKIO_DIR when it is imported.
        os.environ.setdefault("TRACKIO_DIR", str((run.folder / "log" / "trackio").absolute()))
        import trackio

        name = resume_id or f"{run.folder.name}-{uuid.uuid4().hex[:8]}"
        self._run = trackio.init(project=PROJECT, name=name, resume="allow", config=config, embed=False)
        return name

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._run.log(dict(metrics), step=step)

    def finish(self) -> None:
        self._run.finish()
