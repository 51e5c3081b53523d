"""Trackio runs in log/trackio of the run folder; `TRACKIO_DIR=RUN/log/trackio trackio show` opens the dashboard."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from typing import Any

from lmrc.training.trackers.base import PROJECT, TrackedRun


class TrackioTracker:
    """A Trackio run. Trackio identifies a run by its name. It has groups but no tags, which are kept in the config."""

    def start(self, run: TrackedRun, config: dict[str, Any], resume_id: str | None) -> str:
        # Trackio reads TRACKIO_DIR when it is imported.
        os.environ.setdefault("TRACKIO_DIR", str((run.folder / "log" / "trackio").absolute()))
        import trackio

        # A copy of the metrics is another run; otherwise the name is the same also if trackers.json is lost.
        own = uuid.uuid4().hex if run.first_step < 0 else run.stable_id()
        name = resume_id or f"{run.folder.name}-{own[:8]}"
        tags = run.tags(config)
        self._run = trackio.init(
            project=PROJECT,
            name=name,
            group=run.group(config),
            resume="allow",
            config=config | ({"tags": tags} if tags else {}),
            embed=False,
        )
        return name

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._run.log(dict(metrics), step=step)

    def finish(self) -> None:
        self._run.finish()
