"""A run folder: `runs/<name>/`, keyed by name. The same command again resumes it; DONE makes it a no-op.

config.yaml  environment.json  log/  metrics.jsonl  tensorboard/  checkpoints/  best/  DONE
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from lmrc.config import Options, RunOptions
from lmrc.durable import write_atomically
from lmrc.environment import environment
from lmrc.errors import RunError

# What may change between two starts of one run: it decides where and how fast it runs, not what comes out.
MAY_CHANGE = (
    "cluster.",
    "run.folder",
    "train.zero_stage",
    "train.micro_batch_size",
    "train.backend",
    "train.precision",
    "train.checkpoint_",
    "work.attempts",
    "work.lease_seconds",
)


# What a run folder holds before its first result.
NOT_RESULTS = ("config.yaml", "environment.json", "log", "code", "lease")


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"epochs": 3}} as {"train.epochs": 3}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, options: RunOptions) -> RunFolder:
        """The folder that the options name; it need not exist yet."""
        return cls(options.folder / options.name)

    @property
    def best(self) -> Path:
        """Folder of the best weights, as later stages load them."""
        return self.path / "best"

    @property
    def checkpoints(self) -> Path:
        """Folder of the training's checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One JSON object a line."""
        return self.path / "metrics.jsonl"

    def recorded(self, option: str) -> Any:
        """Return the value of an option, such as train.batch_size, in config.yaml; None without a run or the option."""
        try:
            return flatten(yaml.safe_load((self.path / "config.yaml").read_text()) or {}).get(option)
        except FileNotFoundError:
            return None

    def prepare(self, config: Options, note: str = "") -> bool:
        """Make the folder, or take up the one that is there. Returns True where it was there.

        `note`: a line for people above the options of config.yaml.

        Raises RunError where it was made by another config (naming the keys that differ), or cannot be written.
        """
        path = self.path / "config.yaml"
        if path.exists() and self.has_begun():
            self.check(config)
            return True
        try:
            (self.path / "log").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"cannot make the run folder {self.path}: {error.strerror}; choose another run.folder"
            ) from None
        write_atomically(self.path / "environment.json", json.dumps(environment(), indent=2) + "\n")
        # Last: a folder with a config is a run.
        head = f"# {note}\n" if note else ""
        write_atomically(path, head + yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        return False

    def has_begun(self) -> bool:
        """Return True if there is anything to resume; what failed before its first result may start again otherwise."""
        return self.path.is_dir() and any(entry.name not in NOT_RESULTS for entry in self.path.iterdir())

    def check(self, config: Options) -> None:
        """Raises RunError, naming the keys that differ, where the folder was made by another config."""
        before = flatten(yaml.safe_load((self.path / "config.yaml").read_text()) or {})
        now = flatten(config.model_dump(mode="json"))
        for key in [key for key in now if key.endswith("train.global_batch_size")]:
            for options in (before, now):
                if options.get(key) is None:  # as in runs of before there was this option
                    options[key] = options.get(key.replace("global_batch_size", "batch_size"))
        differing = [
            f"{key} (was {before.get(key)!r}, now {now.get(key)!r})"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and not _may_change(key)
        ]
        if differing:
            raise RunError(
                f"{self.path} was made by another config: {'; '.join(differing)}. "
                f"Give the same options to resume it, or another --run name"
            )

    def result(self) -> dict[str, Any] | None:
        """What the finished run left in DONE, or None where it has not finished."""
        path = self.path / "DONE"
        if not path.exists():
            return None
        result: dict[str, Any] = json.loads(path.read_text())
        return result

    def finish(self, result: dict[str, Any]) -> None:
        """Mark the run as done."""
        write_atomically(self.path / "DONE", json.dumps(result, indent=2) + "\n")


def _may_change(key: str) -> bool:
    # The demo's config holds those of its stages: rcp.train.backend is as free as train.backend.
    return any(key.startswith(free) or f".{free}" in key for free in MAY_CHANGE)
