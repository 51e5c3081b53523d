"""The experiment-tracker interface, and the choice of trackers by name."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lmrc.common.atomic_io import write_atomically
from lmrc.common.errors import ConfigError
from lmrc.runs.events import History
from lmrc.runs.run_folder import flatten, read_config

# Class of each value of train.trackers. Its module is imported only if it is used: the packages are optional.
CLASSES = {
    "tensorboard": "TensorBoardTracker",
    "wandb": "WandbTracker",
    "mlflow": "MlflowTracker",
    "trackio": "TrackioTracker",
}

# The list of members in the folder of a group of pipelines, and steps that only pipelines have.
GROUP_FILE, PIPELINE_STEPS = "group.json", ("propose", "classify", "score")

# Project (W&B, Trackio) or experiment (MLflow) of all runs, unless an environment variable of theirs names another.
PROJECT = "lmrc"


@dataclass(frozen=True)
class TrackedRun:
    """The run that a tracker records.

    Attributes:
        folder: The run folder. Its name is the name of the run, and files of a tracker lie inside it.
        first_step: Optimizer steps done before this start. Later steps of an earlier start are made again.
        evaluation_due: True if the evaluation after `first_step` is made again too.
        syncs: True if `lmrc track` sends a run that was recorded offline, which needs the tracker's server.
    """

    folder: Path
    first_step: int = 0
    evaluation_due: bool = False
    syncs: bool = False

    def stable_id(self) -> str:
        """Return an id that every start of this run has, also if log/trackers.json is lost.

        A run that is begun anew in the same folder has another one, by the time of its first event.
        """
        first = next(iter(History(self.folder).read()), {})
        content = json.dumps([str(self.folder.absolute()), first], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    def group(self, config: Mapping[str, Any]) -> str | None:
        """Return the group of the run: the given one, that of seeds and sweeps, or the pipeline; None without any."""
        if given := config.get("train.tracker_group"):
            return str(given)
        home = self.folder.absolute().parent
        if (home.parent / GROUP_FILE).exists():
            return home.parent.name
        return home.name if any((home / step / "config.yaml").exists() for step in PIPELINE_STEPS) else None

    def tags(self, config: Mapping[str, Any]) -> list[str]:
        """Return the given tags, and the member of a group of seeds and sweeps."""
        home = self.folder.absolute().parent
        member = [home.name] if (home.parent / GROUP_FILE).exists() else []
        return [*map(str, config.get("train.tracker_tags") or ()), *member]


class Tracker(Protocol):
    """A sink of metrics. Only rank 0 has trackers."""

    def start(self, run: TrackedRun, config: dict[str, Any], resume_id: str | None) -> str | None:
        """Begin a run, or continue the run `resume_id`.

        Args:
            run: The run folder and the steps that are done.
            config: Options of the run by dotted name, such as "train.epochs".
            resume_id: What an earlier start returned; None starts a new run.

        Returns:
            The id with which a later start continues this run; None if the run folder itself is enough.
        """

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Record the metrics of an optimizer step (from 1), or of the evaluation after it."""

    def finish(self) -> None:
        """Write what is buffered and close the run."""


def check_trackers(names: Iterable[str]) -> None:
    """Check that the packages of these trackers are installed.

    Raises:
        ConfigError: A package is missing.
    """
    for name in missing_trackers(names):
        raise ConfigError(
            f"the tracker {name} needs the package {name}, which is not installed: pip install {name}, or choose "
            f"another tracker"
        )


def missing_trackers(names: Iterable[str]) -> list[str]:
    """Return the trackers whose package, which has the same name, is not installed."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def make_tracker(name: str) -> Tracker:
    """Return the tracker of this name, not yet started."""
    module = importlib.import_module(f"lmrc.training.trackers.{name}")
    tracker: Tracker = getattr(module, CLASSES[name])()
    return tracker


def start_tracker(name: str, tracker: Tracker, run: TrackedRun, new: bool = False) -> None:
    """Start a tracker under the id that is kept in log/trackers.json of the run folder.

    Args:
        new: Start a new run even if there is an id.
    """
    path = run.folder / "log" / "trackers.json"
    ids: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    config = flatten(read_config(run.folder)) if (run.folder / "config.yaml").exists() else {}
    run_id = tracker.start(run, config, None if new else ids.get(name))
    if run_id is not None and run_id != ids.get(name):
        write_atomically(path, json.dumps({**ids, name: run_id}, indent=2) + "\n")
