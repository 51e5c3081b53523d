"""MLflow runs, on the server that MLFLOW_TRACKING_URI names; by default in log/mlflow of the run folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import mlflow

from lmrc.training.trackers.base import PROJECT, TrackedRun


class MlflowTracker:
    """An MLflow run. The options of the run are its parameters."""

    def start(self, run: TrackedRun, config: dict[str, Any], resume_id: str | None) -> str:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        # A job without a network cannot reach a server; lmrc track copies the metrics there later.
        if not os.environ.get("MLFLOW_TRACKING_URI") or (config.get("cluster.offline") and not run.syncs):
            folder = (run.folder / "log" / "mlflow").absolute()
            folder.mkdir(parents=True, exist_ok=True)
            # SQLite: MLflow 3.10 dropped the store that is made of plain files.
            mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
            if mlflow.get_experiment_by_name(experiment) is None:
                mlflow.create_experiment(experiment, artifact_location=(folder / "artifacts").as_uri())
        mlflow.set_experiment(experiment)
        if resume_id is not None:
            mlflow.start_run(run_id=resume_id)
            return resume_id
        tags = {tag: "" for tag in run.tags(config)} | ({"group": group} if (group := run.group(config)) else {})
        run_id: str = mlflow.start_run(run_name=run.folder.name, tags=tags).info.run_id
        # Only once: MLflow refuses another value of a parameter, and a resume may change some options.
        mlflow.log_params(config)
        return run_id

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        mlflow.log_metrics(dict(metrics), step=step)

    def finish(self) -> None:
        mlflow.end_run()
