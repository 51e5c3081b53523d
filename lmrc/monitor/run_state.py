"""The state of a run from its folder alone: stage, progress, best score, failures. SLURM is not queried."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from lmrc.common.errors import RunError, nearest
from lmrc.inference.work_units import Units
from lmrc.runs.heartbeat import Process
from lmrc.runs.run_folder import RunFolder
from lmrc.runs.run_folder import read_config as read_run_config
from lmrc.runs.run_kinds import run_kind
from lmrc.runs.shared_fs import Files, temporary_beside

TRAININGS = ("rcp", "rc")
# Subfolders of a run that contain no other runs, but possibly thousands of files.
FOLDERS_WITHOUT_RUNS = frozenset(
    {"code", "checkpoints", "best", "log", "tensorboard", "units", "lease", "data", "candidates"}
)
# Most units whose files are read, to limit the load on an NFS server.
MAX_UNITS_READ = 100


def find_runs(paths: Sequence[Path], root: Path = Path("runs")) -> list[Path]:
    """Return the run folders at and inside `paths`, newest first.

    Args:
        paths: folders, or names of runs in `root`; if empty, all runs in `root` are returned.

    Raises:
        RunError: a path contains no run. The message suggests the nearest one.
    """
    runs: dict[Path, None] = {}
    for path in paths:
        folder = next((folder for folder in (path, root / path) if folder.is_dir()), None)
        inside = [] if folder is None else list(_runs_inside(folder))
        if not inside:
            known = {str(run) for parent in {root, path.parent} if parent.is_dir() for run in _runs_inside(parent)}
            problem = "is not a run folder" if folder is None else "contains no run"
            raise RunError(f"{path} {problem}: {nearest(str(path), known) if known else f'no runs in {root} yet'}")
        runs.update(dict.fromkeys(inside))
    if not paths and root.is_dir():
        runs.update(dict.fromkeys(_runs_inside(root)))
    return sorted(runs, key=_last_change, reverse=True)


def _runs_inside(folder: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(folder):
        is_run = "config.yaml" in files
        folders[:] = [
            name for name in folders if not name.startswith(".") and not (is_run and name in FOLDERS_WITHOUT_RUNS)
        ]
        if is_run:
            yield Path(path)


def _last_change(folder: Path) -> float:
    times = [0.0]
    for name in ("config.yaml", "DONE", "metrics.jsonl", "log/history.jsonl", "log/progress.json", "units"):
        with contextlib.suppress(OSError):
            times.append((folder / name).stat().st_mtime)
    return max(times)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the run's config; empty if it cannot be read."""
    try:
        return read_run_config(folder)
    except RunError:
        return {}


def stage_of(config: dict[str, Any]) -> str:
    """Return the stage of a config (a name in RUN_KINDS, such as rcp), or "run" if it is of none of them."""
    kind = run_kind(config)
    return "run" if kind is None else kind.name


@dataclass(kw_only=True)
class Progress:
    """Progress and best score of a run. None means unknown.

    Attributes:
        step: optimizer steps done by a training; `total` are all steps.
        unit: what `per_second` counts, such as documents.
    """

    step: int | None = None
    total: int | None = None
    epoch: int | None = None
    loss: float | None = None
    unit: str | None = None
    per_second: float | None = None
    seconds_left: float | None = None
    metric: str | None = None
    best: float | None = None
    best_step: int | None = None


def training_progress(folder: Path, config: dict[str, Any], since: str | None) -> Progress:
    """Return the progress of a training from log/progress.json, metrics.jsonl and DONE.

    The speed is left out if it was measured before `since` (ISO 8601), or if `since` is None.
    """
    progress, written = Progress(), 0.0
    with contextlib.suppress(OSError, ValueError, TypeError):
        row = dict(json.loads((folder / "log" / "progress.json").read_text()))
        written = row.pop("time", 0.0)
        progress = Progress(**row)
    if since is None or written < datetime.fromisoformat(since).timestamp():
        progress.unit = progress.per_second = progress.seconds_left = None
    done = result(folder)
    train = config.get("train")
    progress.metric = train.get("metric") if isinstance(train, dict) else None
    last = None
    for line in _lines(folder / "metrics.jsonl"):
        if '"use_' in line:
            continue
        if '"dev_' not in line:
            last = line  # only the last training step is parsed, because there are many
            continue
        row = _parsed(line)
        value = row.get(f"dev_{progress.metric}")
        sign = -1.0 if "loss" in (progress.metric or "") else 1.0
        if value is not None and (progress.best is None or sign * value > sign * progress.best):
            progress.best, progress.best_step = value, row["step"]
    if progress.step is None and last is not None:
        row = _parsed(last)
        progress.step, progress.epoch, progress.loss = row.get("step"), row.get("epoch"), row.get("loss")
    if done is not None and "best" in done:
        progress.metric, progress.best, progress.best_step = done.get("metric"), done["best"], done.get("best_step")
        progress.step = done.get("steps", progress.step)
    return progress


def _lines(path: Path) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError), path.open() as file:
        yield from file


def _parsed(line: str) -> dict[str, Any]:
    try:
        row: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}  # the line is being written
    return row


def result(folder: Path) -> dict[str, Any] | None:
    """Return the content of DONE; None if the run has not finished."""
    try:
        return RunFolder(folder).result()
    except (OSError, ValueError):
        return {}  # finished, but written by another version


@dataclass
class InferenceProgress:
    """Progress of an inference, in units of documents.

    Attributes:
        failures: one line per unit whose last attempt failed.
        workers: the workers with a recent heartbeat.
        submissions: SLURM jobs (whole arrays) that claimed units, including those not in the history.
    """

    total: int
    done: int
    claimed: int
    failed: int
    documents_per_second: float | None
    seconds_left: float | None
    failures: list[str] = field(default_factory=list)
    workers: list[Process] = field(default_factory=list)
    submissions: set[str] = field(default_factory=set)


def inference_progress(folder: Path, lease_seconds: float) -> InferenceProgress | None:
    """Return the progress of an inference; None if RUN/units does not exist."""
    units = Units(folder, Files())
    try:
        plan = units.read_plan()
        units.look()
    except FileNotFoundError:
        return None
    unfinished = units.unfinished()
    failed = [unit for unit in unfinished if units.attempts[unit] in units.failures(unit)]
    free = sum(1 for unit in unfinished if units.attempts[unit] in units.released[unit])
    speed = _units_per_second(units)
    progress = InferenceProgress(
        total=plan["units"],
        done=len(units.done),
        claimed=len(unfinished) - len(failed) - free,
        failed=len(failed),
        documents_per_second=None if speed is None else speed * plan["docs_per_unit"],
        seconds_left=None if not speed else (plan["units"] - len(units.done)) / speed,
        workers=_live_workers(units, lease_seconds),
        submissions=_submissions(units),
    )
    for unit in sorted(failed):
        with contextlib.suppress(OSError, ValueError, KeyError):
            error = units.error(unit, units.attempts[unit])
            start, stop = error["documents"]
            progress.failures.append(f"unit {unit} (documents {start} to {stop - 1}): {error['error']}")
    return progress


def _units_per_second(units: Units) -> float | None:
    """Return the throughput over the more recent half of the units, so that an idle night does not lower it."""
    done = sorted(units.done)
    times = []
    for unit in done[:: -(-len(done) // MAX_UNITS_READ) or 1]:
        with contextlib.suppress(OSError):
            times.append(units.path("part", unit, suffix=".arrow").stat().st_mtime)
    times.sort()
    recent = times[len(times) // 2 :]
    if len(recent) < 2 or recent[-1] <= recent[0]:
        return None
    return len(done) * (len(recent) - 1) / len(times) / (recent[-1] - recent[0])


def _live_workers(units: Units, lease_seconds: float) -> list[Process]:
    """Return the workers whose last heartbeat is younger than the lease, by the file server's clock."""
    names = sorted(units.workers)
    clock = temporary_beside(units.folder / "look")
    try:
        units.files.write(clock, b"")
        now = units.files.touch(clock)
    except OSError:
        return []  # the folder is read-only for this user
    finally:
        with contextlib.suppress(OSError):
            units.files.remove(clock)
    observer = Process.current(None)
    workers = []
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            content, heartbeat = units.files.read(units.folder / name)
            process = Process.parse(content)
            if process is not None and now - heartbeat <= lease_seconds and not process.is_dead(observer):
                workers.append(process)
    return workers


def _submissions(units: Units) -> set[str]:
    """Return the SLURM jobs named in the claims, which remain after their worker has ended."""
    latest = [*sorted(units.attempts), *sorted(units.unfinished())][-MAX_UNITS_READ:]
    submissions = set()
    for unit in latest:
        with contextlib.suppress(OSError):
            process = Process.parse(units.files.read(units.path("claim", unit, units.attempts[unit]))[0])
            if process is not None and process.submission:
                submissions.add(process.submission)
    return submissions
