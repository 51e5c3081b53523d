"""A run folder: `runs/<name>/`, keyed by name. The same command again resumes it; DONE makes it a no-op.

config.yaml  environment.json  log/  metrics.jsonl  tensorboard/  checkpoints/  best/  DONE
"""

from __future__ import annotations

import json
import os
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from lmrc.common.atomic_io import write_atomically
from lmrc.common.environment import environment
from lmrc.common.errors import RunError
from lmrc.config.loader import READERS, options_of
from lmrc.config.schema import BuildConfig, Options, RunOptions, ScoreConfig
from lmrc.config.unused import is_among, without_effect

# What may change between two starts of one run: it decides where and how fast it runs, not what comes out.
MAY_CHANGE = (
    "cluster.",
    "run.folder",
    "run.name",
    "train.zero_stage",
    "train.micro_batch_size",
    "train.backend",
    "train.precision",
    "train.checkpoint_",
    "train.trackers",
    "work.attempts",
    "work.lease_seconds",
)


def _is_path(kind: Any) -> bool:
    return kind is Path or any(_is_path(part) for part in typing.get_args(kind))


# The options that are paths, by dotted name; of these, mappings of names to paths; and names of models or folders.
_TREES: tuple[type[Options], ...] = (*READERS.values(), BuildConfig, ScoreConfig)
_FIELDS = [option for tree in _TREES for option in options_of(tree)]
PATHS = frozenset(name for name, field in _FIELDS if _is_path(field.annotation))
MAPPINGS = frozenset(name for name, field in _FIELDS if name in PATHS and typing.get_origin(field.annotation) is dict)
MODELS = frozenset(name for name, _ in _FIELDS if name.rpartition(".")[2] in ("base", "encoder"))

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
        write_atomically(path, head + yaml.safe_dump(resolved(config), sort_keys=False))
        return False

    def has_begun(self) -> bool:
        """Return True if there is anything to resume; what failed before its first result may start again otherwise."""
        return self.path.is_dir() and any(entry.name not in NOT_RESULTS for entry in self.path.iterdir())

    def check(self, config: Options) -> None:
        """Check that the folder was made by this config.

        A path may be written otherwise if it is the same place, or the same relative to the run folder: the run may be
        launched from another folder, and may have been moved together with its data.

        Raises:
            RunError: another config made it; the message names the options that differ.
        """
        raw = yaml.safe_load((self.path / "config.yaml").read_text()) or {}
        before, now, unread = flatten(raw), flatten(resolved(config)), without_effect(config)
        for key in [key for key in now if key.endswith("train.global_batch_size")]:
            for options in (before, now):
                if options.get(key) is None:  # as in runs of before there was this option
                    options[key] = options.get(key.replace("global_batch_size", "batch_size"))
        differing = [
            f"{key} (was {before.get(key)!r}, now {now.get(key)!r})"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and not _may_change(key) and not is_among(key, unread)
            if not (_holds_path(key) and self._is_same(before.get(key), now.get(key), raw))
        ]
        if differing:
            raise RunError(
                f"{self.path} was made by another config: {'; '.join(differing)}. "
                f"Give the same options to resume it, or another --run name"
            )

    def _is_same(self, before: Any, now: Any, raw: dict[str, Any]) -> bool:
        """Return whether two paths, or two lists of them, are the same place for this run."""
        if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
            return all(self._is_same(*both, raw) for both in zip(before, now, strict=True))
        if not isinstance(before, str) or not isinstance(now, str):
            return False
        places = {_located(before, self.path, raw).resolve(), _moved(before, self.path, raw).resolve()}
        return Path(now).resolve() in places

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


def read_config(folder: Path) -> dict[str, Any]:
    """Read the config.yaml of a run, with the paths where they are now, absolute.

    A path that is not there any more, because the run was moved together with its data, is looked for at the same
    place relative to the run folder. A relative one, of an older run, is looked for in the working directory, then in
    the folders above the run.

    Raises:
        RunError: the folder is no run, or its config cannot be read.
    """
    try:
        raw = yaml.safe_load((folder / "config.yaml").read_text())
    except OSError as error:
        raise RunError(f"{folder} is no run folder: its config.yaml cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"{folder}/config.yaml is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise RunError(f"{folder}/config.yaml holds no options: {folder} is no run folder")

    def located(name: str, text: str) -> str:
        return text if name in MODELS and not Path(text).is_absolute() else str(_located(text, folder, raw))

    found: dict[str, Any] = _with_paths(raw, located)
    return found


def resolved(config: Options) -> dict[str, Any]:
    """Return the options as config.yaml holds them: JSON values, with absolute paths.

    The name of a model becomes a path if it is a folder here. A path that has no effect stays as it is.
    """
    unread = without_effect(config)

    def absolute(name: str, text: str) -> str:
        is_path = name not in MODELS or (text != "" and Path(text).is_dir())
        return str(Path(text).absolute()) if is_path and not is_among(name, unread) else text

    found: dict[str, Any] = _with_paths(config.model_dump(mode="json"), absolute)
    return found


def _with_paths(value: Any, change: Callable[[str, str], str], name: str = "") -> Any:
    """Return the value of the option `name` with `change(name, text)` for each path and each name of a model in it."""
    if isinstance(value, dict):
        inner = {key: name if name in MAPPINGS else f"{name}.{key}".lstrip(".") for key in value}
        return {key: _with_paths(each, change, inner[key]) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_paths(each, change, name) for each in value]
    return change(name, value) if isinstance(value, str) and name in PATHS | MODELS else value


def _holds_path(key: str) -> bool:
    return key in PATHS | MODELS or key.rpartition(".")[0] in MAPPINGS


def _located(text: str, folder: Path, raw: dict[str, Any]) -> Path:
    """Return where a path of the run in `folder` is now."""
    path = Path(text)
    if path.is_absolute():
        moved = _moved(text, folder, raw)
        return moved if not path.exists() and moved.exists() else path
    above = folder.absolute().parents
    return next((place / path for place in (Path.cwd(), *above) if (place / path).exists()), Path.cwd() / path)


def _moved(text: str, folder: Path, raw: dict[str, Any]) -> Path:
    """Return the path at the same place relative to the run folder as when the run was made."""
    run = raw.get("run")
    if not isinstance(run, dict) or not Path(text).is_absolute() or not Path(str(run.get("folder"))).is_absolute():
        return Path(text)
    old = Path(run["folder"]) / str(run.get("name"))
    return Path(os.path.normpath(folder.absolute() / os.path.relpath(text, old)))


def _may_change(key: str) -> bool:
    # The demo's config holds those of its stages: rcp.train.backend is as free as train.backend.
    return any(key.startswith(free) or f".{free}" in key for free in MAY_CHANGE)
