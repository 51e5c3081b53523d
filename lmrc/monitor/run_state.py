"""What a run folder says of itself: its stage, how far it is, its best score, its errors. Nothing here asks SLURM."""

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
from lmrc.runs.run_folder import read_config as read_located
from lmrc.runs.run_kinds import run_kind
from lmrc.runs.shared_fs import Files, temporary_beside

TRAININGS = ("rcp", "rc")
# What a run folder holds besides other runs: thousands of files.
NO_RUNS = frozenset({"code", "checkpoints", "best", "log", "tensorboard", "units", "lease", "data", "candidates"})
# An NFS server is asked for the times of this many parts at most.
PARTS_LOOKED_AT = 100


def find(given: Sequence[Path], below: Path = Path("runs")) -> list[Path]:
    """The run folders given, by path or by name in `below`, and those inside them; of nothing, all below `below`.

    Newest first. Raises RunError, naming the nearest run, where there is none.
    """
    found: dict[Path, None] = {}
    for path in given:
        places = [place for place in (path, below / path) if place.is_dir()]
        runs = [run for place in places[:1] for run in _below(place)]
        if not runs:
            known = {str(run) for folder in {below, path.parent} if folder.is_dir() for run in _below(folder)}
            problem = "holds no run" if places else "is no run folder"
            raise RunError(f"{path} {problem}: {nearest(str(path), known) if known else f'no runs in {below} yet'}")
        found.update(dict.fromkeys(runs))
    if not given and below.is_dir():
        found.update(dict.fromkeys(_below(below)))
    return sorted(found, key=_last_change, reverse=True)


def _below(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        is_run = "config.yaml" in files
        folders[:] = [name for name in folders if not name.startswith(".") and not (is_run and name in NO_RUNS)]
        if is_run:
            yield Path(place)


def _last_change(folder: Path) -> float:
    times = [0.0]
    for name in ("config.yaml", "DONE", "metrics.jsonl", "log/history.jsonl", "log/progress.json", "units"):
        with contextlib.suppress(OSError):
            times.append((folder / name).stat().st_mtime)
    return max(times)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the run's config; empty if it cannot be read."""
    try:
        return read_located(folder)
    except RunError:
        return {}


def kind_of(config: dict[str, Any]) -> str:
    """The stage that a config is of (rcp, rc, propose, classify, build, score, demo); "run" where of none of them."""
    kind = run_kind(config)
    return "run" if kind is None else kind.name


@dataclass
class Progress:
    """How far a run is: optimizer steps of a training, units of an inference. None: not known."""

    step: int | None = None
    total: int | None = None
    epoch: int | None = None
    loss: float | None = None
    unit: str | None = None
    per_second: float | None = None
    seconds_left: float | None = None
    time: float = 0.0
    """Of the training, seconds since 1970."""
    metric: str | None = None
    best: float | None = None
    best_step: int | None = None

    def is_since(self, start: str) -> bool:
        """Whether it tells of a start at this time (ISO 8601)."""
        return self.time >= datetime.fromisoformat(start).timestamp()


def training_progress(folder: Path, config: dict[str, Any]) -> Progress:
    """How far a training is, from log/progress.json and metrics.jsonl; the best score as the loop chooses it."""
    found = Progress()
    with contextlib.suppress(OSError, ValueError, TypeError):
        found = Progress(**json.loads((folder / "log" / "progress.json").read_text()))
    done = result(folder)
    train = config.get("train")
    found.metric = train.get("metric") if isinstance(train, dict) else None
    last = None
    for line in _lines(folder / "metrics.jsonl"):
        if '"dev_' not in line:
            last = line  # the examples of every step make the file long: only the last one is read
            continue
        row = _parsed(line)
        value = row.get(f"dev_{found.metric}")
        sign = -1.0 if "loss" in (found.metric or "") else 1.0
        if value is not None and (found.best is None or sign * value > sign * found.best):
            found.best, found.best_step = value, row["step"]
    if found.step is None and last is not None:
        row = _parsed(last)
        found.step, found.epoch, found.loss = row.get("step"), row.get("epoch"), row.get("loss")
    if done is not None and "best" in done:
        found.metric, found.best, found.best_step = done.get("metric"), done["best"], done.get("best_step")
        found.step = done.get("steps", found.step)
    return found


def _lines(path: Path) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError), path.open() as file:
        yield from file


def _parsed(line: str) -> dict[str, Any]:
    try:
        row: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}  # it is being written
    return row


def result(folder: Path) -> dict[str, Any] | None:
    """What DONE holds; None where the run has not finished."""
    try:
        return RunFolder(folder).result()
    except (OSError, ValueError):
        return {}  # of a run that wrote it otherwise: it is done all the same


@dataclass
class Work:
    """Where an inference stands."""

    total: int
    done: int
    claimed: int
    failed: int
    documents_per_second: float | None
    seconds_left: float | None
    failures: list[str] = field(default_factory=list)
    """A line for each unit whose last attempt failed."""
    workers: list[Process] = field(default_factory=list)
    """Those that show signs of life."""
    submissions: set[str] = field(default_factory=set)
    """SLURM jobs (whole arrays) that took part lately, also where no history names them."""


def work_of(folder: Path, lease_seconds: float) -> Work | None:
    """Where the work of an inference stands; None without RUN/units."""
    units = Units(folder, Files())
    try:
        plan = json.loads(units.files.read(units.folder / "plan.json")[0])
        units.look()
    except FileNotFoundError:
        return None
    unfinished = units.unfinished()
    failed = [unit for unit in unfinished if units.attempts[unit] in units.failures(unit)]
    free = sum(1 for unit in unfinished if units.attempts[unit] in units.released[unit])
    speed = _units_per_second(units)
    found = Work(
        total=plan["units"],
        done=len(units.done),
        claimed=len(unfinished) - len(failed) - free,
        failed=len(failed),
        documents_per_second=None if speed is None else speed * plan["unit_documents"],
        seconds_left=None if not speed else (plan["units"] - len(units.done)) / speed,
        workers=_alive(units, lease_seconds),
        submissions=_submissions(units),
    )
    for unit in sorted(failed):
        with contextlib.suppress(OSError, ValueError, KeyError):
            error = units.error(unit, units.attempts[unit])
            start, stop = error["documents"]
            found.failures.append(f"unit {unit} (documents {start} to {stop - 1}): {error['error']}")
    return found


def _units_per_second(units: Units) -> float | None:
    """From the times of the later half of the parts: a night without workers in between does not count."""
    done = sorted(units.done)
    times = []
    for unit in done[:: -(-len(done) // PARTS_LOOKED_AT) or 1]:
        with contextlib.suppress(OSError):
            times.append(units.path("part", unit, suffix=".arrow").stat().st_mtime)
    times.sort()
    later = times[len(times) // 2 :]
    if len(later) < 2 or later[-1] <= later[0]:
        return None
    return len(done) * (len(later) - 1) / len(times) / (later[-1] - later[0])


def _alive(units: Units, lease_seconds: float) -> list[Process]:
    """The workers whose card was touched within the lease, by the file server's clock."""
    cards = sorted(units.workers)
    look = temporary_beside(units.folder / "look")
    try:
        units.files.write(look, b"")
        now = units.files.touch(look)
    except OSError:
        return []  # a folder that is read-only to us
    finally:
        with contextlib.suppress(OSError):
            units.files.remove(look)
    observer = Process.current(None)
    found = []
    for card in cards:
        with contextlib.suppress(FileNotFoundError):
            content, beat = units.files.read(units.folder / card)
            process = Process.parse(content)
            if process is not None and now - beat <= lease_seconds and not process.is_dead(observer):
                found.append(process)
    return found


def _submissions(units: Units) -> set[str]:
    """By the claims: they are names of their workers' cards, and stay when a worker has gone."""
    latest = [*sorted(units.attempts), *sorted(units.unfinished())][-PARTS_LOOKED_AT:]
    found = set()
    for unit in latest:
        with contextlib.suppress(OSError):
            process = Process.parse(units.files.read(units.path("claim", unit, units.attempts[unit]))[0])
            if process is not None and process.submission:
                found.add(process.submission)
    return found


@dataclass(frozen=True)
class Note:
    """What a process left when it failed: log/failures/JOB-RESTART-PROCESS.json."""

    job: str
    restart: int
    time: float


def newest_failure(folder: Path) -> Note | None:
    """The attempt that failed last, by the notes of its processes."""
    notes = []
    for path in (folder / "log" / "failures").glob("*-*-*.json"):
        with contextlib.suppress(OSError, ValueError):
            job, restart, _ = path.stem.rsplit("-", 2)
            notes.append(Note(job, int(restart), path.stat().st_mtime))
    return max(notes, key=lambda note: note.time, default=None)
