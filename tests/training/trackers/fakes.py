"""Stand-ins for the packages wandb, mlflow and trackio, with the part of their contract that the trackers use.

The packages are optional and not installed in the tests. The contract is from their documentation:

wandb     init(project, name, id, resume, dir, config, mode, group, tags) returns a run. With resume="allow" an
          existing id is continued. Offline it makes the folder dir/wandb/offline-run-TIME-id, else run-TIME-id.
          run.log(dict) appends a row; its implicit step must not be given in decreasing order.
          run.define_metric(name, step_metric=…). run.finish().
mlflow    set_tracking_uri(uri), get_experiment_by_name(name) (None if missing), create_experiment(name,
          artifact_location), set_experiment(name), start_run(run_id= or run_name= and tags=) returns a run with
          info.run_id and raises if another run is active, log_params(dict) raises if a value changes,
          log_metrics(dict of numbers, step), end_run().
trackio   init(project, name, group, resume, config, embed) returns a run. The name identifies it: with resume="allow"
          an existing name is continued. run.log(dict, step), run.finish(). Reads TRACKIO_DIR at its import.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

Rows = list[tuple[int, dict[str, Any]]]


class FakeRun:
    """A run of W&B or Trackio."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.axes: dict[str, str | None] = {}
        self.is_finished = False

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.axes[name] = step_metric

    def log(self, metrics: dict[str, Any], step: int | None = None) -> None:
        assert not self.is_finished
        if step is None:
            assert self.axes == {"step": None, "*": "step"}
            step = metrics.pop("step")
        self._rows.append((step, metrics))

    def finish(self) -> None:
        self.is_finished = True


class FakeServices:
    """The three services.

    Attributes:
        rows: The rows of each run, by tracker and run id.
        inits: Arguments of each init of W&B or Trackio, by tracker.
        params: Parameters of each MLflow run.
        mlflow_uri: The tracking URI of MLflow.
        tags: Tags of each start of an MLflow run.
    """

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Rows]] = {"wandb": {}, "mlflow": {}, "trackio": {}}
        self.inits: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self.params: dict[str, dict[str, Any]] = {}
        self.mlflow_uri = ""
        self.tags: list[dict[str, str]] = []
        self._experiments: dict[str, str] = {}
        self._experiment: str | None = None
        self._active: str | None = None

    def wandb(self) -> ModuleType:
        def init(
            *,
            project: str,
            name: str,
            id: str,
            resume: str,
            dir: str,
            config: dict[str, Any],
            mode: str,
            group: str | None,
            tags: list[str],
        ) -> FakeRun:
            assert resume == "allow" and mode in ("online", "offline") and os.path.isdir(dir)  # noqa: PTH112
            given = {"project": project, "name": name, "mode": mode, "dir": dir, "config": config, "id": id}
            self.inits["wandb"].append({**given, "group": group, "tags": tags})
            kind = "offline-run" if mode == "offline" else "run"
            Path(dir, "wandb", f"{kind}-{len(self.inits['wandb'])}-{id}").mkdir(parents=True)
            return FakeRun(self.rows["wandb"].setdefault(id, []))

        return module("wandb", init=init)

    def trackio(self) -> ModuleType:
        def init(
            *, project: str, name: str, group: str | None, resume: str, config: dict[str, Any], embed: bool
        ) -> FakeRun:
            assert resume == "allow" and not embed
            given = {"project": project, "dir": os.environ["TRACKIO_DIR"], "config": config, "name": name}
            self.inits["trackio"].append({**given, "group": group})
            return FakeRun(self.rows["trackio"].setdefault(name, []))

        return module("trackio", init=init)

    def mlflow(self) -> ModuleType:
        def set_tracking_uri(uri: str) -> None:
            self.mlflow_uri = uri

        def create_experiment(name: str, artifact_location: str) -> None:
            assert name not in self._experiments
            self._experiments[name] = artifact_location

        def set_experiment(name: str) -> None:
            self._experiments.setdefault(name, "")
            self._experiment = name

        def start_run(
            *, run_id: str | None = None, run_name: str | None = None, tags: dict[str, str] | None = None
        ) -> SimpleNamespace:
            self.tags.append(tags or {})
            assert self._experiment is not None
            if self._active is not None:
                raise RuntimeError("a run is already active")
            if run_id is None:
                run_id = f"run-{len(self.rows['mlflow'])}"
                self.rows["mlflow"][run_id], self.params[run_id] = [], {}
            assert run_id in self.rows["mlflow"]
            self._active = run_id
            return SimpleNamespace(info=SimpleNamespace(run_id=run_id, run_name=run_name))

        def log_params(params: dict[str, Any]) -> None:
            assert self._active is not None
            assert all(self.params[self._active].get(key, value) == value for key, value in params.items())
            self.params[self._active] |= params

        def log_metrics(metrics: dict[str, float], step: int) -> None:
            assert self._active is not None
            assert all(isinstance(value, int | float) for value in metrics.values())
            self.rows["mlflow"][self._active].append((step, metrics))

        def end_run() -> None:
            self._active = None

        return module(
            "mlflow",
            set_tracking_uri=set_tracking_uri,
            get_experiment_by_name=self._experiments.get,
            create_experiment=create_experiment,
            set_experiment=set_experiment,
            start_run=start_run,
            log_params=log_params,
            log_metrics=log_metrics,
            end_run=end_run,
        )


def module(name: str, **content: Any) -> ModuleType:
    """Return a module that importlib finds."""
    made = ModuleType(name)
    made.__spec__ = SimpleNamespace(name=name, loader=None)  # type: ignore[assignment]
    vars(made).update(content)
    return made


def install_fakes(monkeypatch: pytest.MonkeyPatch) -> FakeServices:
    """Install the three modules for a test, without variables of the environment that steer them."""
    services = FakeServices()
    for name in ("wandb", "mlflow", "trackio"):
        monkeypatch.setitem(sys.modules, name, getattr(services, name)())
        # Imported anew, with the fake package of this test.
        monkeypatch.delitem(sys.modules, f"lmrc.training.trackers.{name}", raising=False)
    for variable in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_", "TRACKIO_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("NETRC", os.devnull)
    # The tracker sets it; monkeypatch restores it.
    monkeypatch.setenv("TRACKIO_DIR", "")
    monkeypatch.delenv("TRACKIO_DIR")
    return services
