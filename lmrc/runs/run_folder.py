"""Run folder `runs/<name>/`. The same command resumes the run, or does nothing if the run is finished (DONE).

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
from pydantic import ValidationError

from lmrc.common.atomic_io import write_atomically
from lmrc.common.environment import environment, user_name
from lmrc.common.errors import RunError
from lmrc.config.aliases import with_current_names
from lmrc.config.loader import READERS, options_of
from lmrc.config.schema import (
    BuildConfig,
    FitConfig,
    JoinConfig,
    Options,
    RunOptions,
    ScoreConfig,
    SplitConfig,
    SummaryConfig,
)
from lmrc.config.unused import is_among, without_effect
from lmrc.runs.shared_fs import Files

# Options that may change when a run is resumed: they affect where and how fast it runs, but not its result.
MAY_CHANGE = (
    "cluster.",
    "run.folder",
    "run.name",
    "run.verbose",
    "train.zero_stage",
    "train.micro_batch_size",
    "train.backend",
    "train.precision",
    "train.deterministic",
    "train.checkpoint_",
    "train.tracker",
    "work.attempts",
    "work.lease_seconds",
)


def _is_path(kind: Any) -> bool:
    return kind is Path or any(_is_path(part) for part in typing.get_args(kind))


_STEPS = (BuildConfig, SplitConfig, JoinConfig, FitConfig, ScoreConfig, SummaryConfig)
# Dotted names of the options that are paths, of those that map names to paths, and of those that are a model's name
# or its folder.
_TREES: tuple[type[Options], ...] = (*READERS.values(), *_STEPS)
_FIELDS = [option for tree in _TREES for option in options_of(tree)]
PATHS = frozenset(name for name, field in _FIELDS if _is_path(field.annotation))
MAPPINGS = frozenset(name for name, field in _FIELDS if name in PATHS and typing.get_origin(field.annotation) is dict)
MODELS = frozenset(name for name, _ in _FIELDS if name.rpartition(".")[2] in ("base", "encoder"))

# Bits of the umask that keep the group from reading files and entering folders.
GROUP_MAY_READ = 0o050

# Entries of a run folder that exist before its first result.
NOT_RESULTS = ("config.yaml", "environment.json", "log", "code", "lease")


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested options by dotted name: {"train": {"epochs": 3}} as {"train.epochs": 3}."""
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
        """Return the run folder that the options name. It may not exist yet."""
        return cls(options.folder / options.name)

    @property
    def best(self) -> Path:
        """Return the folder of the best weights, which later stages load."""
        return self.path / "best"

    @property
    def checkpoints(self) -> Path:
        """Return the folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """Return the metrics file, with one JSON object per line."""
        return self.path / "metrics.jsonl"

    def recorded(self, option: str) -> Any:
        """Return an option of config.yaml, such as train.batch_size; None if the run or the option does not exist."""
        try:
            return flatten(with_current_names(yaml.safe_load((self.path / "config.yaml").read_text()) or {})).get(
                option
            )
        except FileNotFoundError:
            return None

    def prepare(self, config: Options, note: str = "") -> bool:
        """Create the folder, or check the one that exists. Return True if there is a run to resume.

        With `cluster.group_readable` this process and those that it starts let the group read all that they write.

        Args:
            config: the options, which are written to config.yaml.
            note: comment at the top of config.yaml.

        Raises:
            RunError: the run was started with another config or by another user, or the folder cannot be written.
        """
        self.check_owner()
        if getattr(getattr(config, "cluster", None), "group_readable", False):
            os.umask(os.umask(0o077) & ~GROUP_MAY_READ)
        path = self.path / "config.yaml"
        if path.exists() and self.has_begun():
            self.check(config)
            return True
        try:
            (self.path / "log").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"cannot create the run folder {self.path}: {error.strerror}; choose another run.folder"
            ) from None
        write_atomically(self.path / "environment.json", json.dumps(environment(), indent=2) + "\n")
        # Written last: a folder with a config is a run.
        head = f"# {note}\n" if note else ""
        write_atomically(path, head + yaml.safe_dump(resolved(config), sort_keys=False))
        return False

    def check_owner(self) -> None:
        """Check that no other user has begun the run, whose files would then have two owners.

        A user is another one if both number and recorded name differ: a container may change the number, and an NFS
        server without names the owner of files.

        Raises:
            RunError: another user has. The message says who.
        """
        try:
            number = (self.path / "config.yaml").stat().st_uid
            recorded = self._recorded_user()
        except FileNotFoundError:
            return
        except PermissionError as error:
            raise RunError(
                f"{self.path} cannot be read ({error.strerror}): it is another user's, or in a folder of one; choose "
                "another --run.folder"
            ) from None
        if number == os.geteuid() or recorded == user_name():
            return
        # Runs of older versions record no user.
        if recorded is not None or not os.access(self.path, os.W_OK):
            owner = recorded or user_name(number)
            raise RunError(
                f"{self.path} was begun by {owner}, and you are {user_name()}: ask {owner} to resume it, or begin your "
                "own under another --run name or --run.folder"
            )

    def _recorded_user(self) -> str | None:
        """Return the user who began the run; None if it is not recorded."""
        try:
            return str(json.loads((self.path / "environment.json").read_text())["user"])
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None

    def has_begun(self) -> bool:
        """Return True if there is something to resume. Before that, the run may be started with other options."""
        return self.path.is_dir() and any(entry.name not in NOT_RESULTS for entry in self.path.iterdir())

    def check(self, config: Options) -> None:
        """Check that the run was started with this config.

        A path may be spelled differently if it is the same file, or the same relative to the run folder: the run may
        be launched from another folder, and may have been moved together with its data.

        Raises:
            RunError: the run was started with another config; the message names the options that differ.
        """
        raw = with_current_names(yaml.safe_load((self.path / "config.yaml").read_text()) or {})
        before, now, unread = flatten(raw), flatten(resolved(config)), without_effect(config)
        for key in [key for key in now if key.endswith("train.global_batch_size")]:
            for options in (before, now):
                if options.get(key) is None:  # a run from before this option existed
                    options[key] = options.get(key.replace("global_batch_size", "batch_size"))
        # An option that did not exist when the run began had the effect of its default.
        defaults = _defaults(config)
        before |= {key: now[key] for key in now.keys() - before.keys() if now[key] == defaults.get(key)}
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
        """Return True if two paths, or two lists of paths, are the same for this run."""
        if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
            return all(self._is_same(*both, raw) for both in zip(before, now, strict=True))
        if not isinstance(before, str) or not isinstance(now, str):
            return False
        return Path(now).resolve() in (
            _located(before, self.path, raw).resolve(),
            _moved(before, self.path, raw).resolve(),
        )

    def result(self) -> dict[str, Any] | None:
        """Return the content of DONE; None if the run is not finished."""
        path = self.path / "DONE"
        if not path.exists():
            return None
        result: dict[str, Any] = json.loads(path.read_text())
        return result

    def finish(self, result: dict[str, Any]) -> bool:
        """Write DONE with this result. Return False if another process has written it."""
        return Files().publish(self.path / "DONE", (json.dumps(result, indent=2) + "\n").encode())


def _defaults(config: Options) -> dict[str, Any]:
    """Return the options of a config of this kind without any given, flattened; empty if some must be given."""
    try:
        return flatten(type(config)().model_dump(mode="json"))
    except ValidationError:
        return {}


def read_config(folder: Path) -> dict[str, Any]:
    """Return the config.yaml of a run, with today's option names and absolute paths.

    If a path no longer exists because the run was moved together with its data, the same path relative to the run
    folder is used. Relative paths, which older runs have, are searched in the working directory, then in the folders
    above the run.

    Raises:
        RunError: the folder is no run folder, or its config cannot be read.
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

    config: dict[str, Any] = _with_paths(with_current_names(raw), located)
    return config


def resolved(config: Options) -> dict[str, Any]:
    """Return the options as JSON values for config.yaml, with absolute paths.

    The name of a model is a path if a folder of that name exists. Options that have no effect are not changed.
    """
    unread = without_effect(config)

    def absolute(name: str, text: str) -> str:
        is_path = name not in MODELS or (text != "" and Path(text).is_dir())
        return str(Path(text).absolute()) if is_path and not is_among(name, unread) else text

    options: dict[str, Any] = _with_paths(config.model_dump(mode="json"), absolute)
    return options


def _with_paths(value: Any, change: Callable[[str, str], str], name: str = "") -> Any:
    """Return the value of the option `name`, with `change(name, text)` applied to every path and model name in it."""
    if isinstance(value, dict):
        inner = {key: name if name in MAPPINGS else f"{name}.{key}".lstrip(".") for key in value}
        return {key: _with_paths(item, change, inner[key]) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_paths(item, change, name) for item in value]
    return change(name, value) if isinstance(value, str) and name in PATHS | MODELS else value


def _holds_path(key: str) -> bool:
    return key in PATHS | MODELS or key.rpartition(".")[0] in MAPPINGS


def _located(text: str, folder: Path, raw: dict[str, Any]) -> Path:
    """Return the current location of a path in the config of the run in `folder`."""
    path = Path(text)
    if path.is_absolute():
        moved = _moved(text, folder, raw)
        return moved if not path.exists() and moved.exists() else path
    above = folder.absolute().parents
    return next((root / path for root in (Path.cwd(), *above) if (root / path).exists()), Path.cwd() / path)


def _moved(text: str, folder: Path, raw: dict[str, Any]) -> Path:
    """Return the path that has the same position relative to the run folder as when the run was started."""
    run = raw.get("run")
    if not isinstance(run, dict) or not Path(text).is_absolute() or not Path(str(run.get("folder"))).is_absolute():
        return Path(text)
    old = Path(run["folder"]) / str(run.get("name"))
    return Path(os.path.normpath(folder.absolute() / os.path.relpath(text, old)))


def _may_change(key: str) -> bool:
    # The demo's config contains those of its stages, such as rcp.train.backend.
    return any(key.startswith(option) or f".{option}" in key for option in MAY_CHANGE)
