"""Weights & Biases runs, with their files in log/wandb of the run folder.

`wandb sync --append RUN/log/wandb/offline-run-*` uploads an offline run and all its resumes.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from typing import Any

import requests
import wandb

from lmrc.training.trackers.base import PROJECT, TrackedRun

# Seconds to wait for the W&B server before the run is recorded offline.
TIMEOUT = 3.0


class WandbTracker:
    """A W&B run, offline if WANDB_MODE is not set and the server or the API key is missing."""

    def start(self, run: TrackedRun, config: dict[str, Any], resume_id: str | None) -> str:
        run_id = resume_id or uuid.uuid4().hex[:12]
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.folder.name,
            id=run_id,
            resume="allow",
            dir=str(run.folder / "log"),
            config=config,
            mode=os.environ.get("WANDB_MODE") or default_mode(),
        )
        # W&B's own step must increase, but a resume makes the last steps again. So the step is a metric.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        return run_id

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._run.log({"step": step, **metrics})

    def finish(self) -> None:
        self._run.finish()


def default_mode() -> str:
    """Return "online" if an API key is known and the server answers, else "offline"."""
    url = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
    if not os.environ.get("WANDB_API_KEY") and requests.utils.get_netrc_auth(url) is None:
        return "offline"
    try:
        requests.head(url, timeout=TIMEOUT)
    except requests.RequestException:
        return "offline"
    return "online"
