"""Weights & Biases runs, with their files in log/wandb of the run folder.

`lmrc track RUN --to wandb` sends the metrics of an offline run and all its resumes under the same id.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from typing import Any

import requests
import wandb

from lmrc.common.errors import RunError
from lmrc.training.trackers.base import PROJECT, TrackedRun

# Seconds to wait for the W&B server before the run is recorded offline.
TIMEOUT = 3.0


class WandbTracker:
    """A W&B run. Without WANDB_MODE it is offline by `cluster.offline`, or if the server or the API key is missing."""

    def start(self, run: TrackedRun, config: dict[str, Any], resume_id: str | None) -> str:
        mode = os.environ.get("WANDB_MODE")
        if run.syncs:
            mode = default_mode()
            if mode == "offline":
                # Not in the pre-flight: lmrc track raises it, and trainings without a network record offline.
                raise RunError("W&B's server does not answer, or no API key is known: type wandb login, with a network")
        elif mode is None:
            mode = "offline" if config.get("cluster.offline") else default_mode()
        # A copy of a run that is on the server already is another run.
        is_copy = run.first_step < 0 and not run.syncs
        run_id = resume_id or (uuid.uuid4().hex[:12] if is_copy else run.stable_id())
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.folder.name,
            id=run_id,
            resume="allow",
            dir=str(run.folder / "log"),
            config=config,
            mode=mode,
            group=run.group(config),
            tags=run.tags(config),
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
