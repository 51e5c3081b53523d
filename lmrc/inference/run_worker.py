"""Distributed inference: any number of workers, of which any may die, finish every unit of documents once.

A worker claims a unit by an exclusive link, computes its rows and publishes them as a part, which is the only mark of
"done"; the first part stays. When nothing is left to claim it takes over from workers that died, failed or are slow,
and in the end one worker merges the parts.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lmrc.common.errors import RunError
from lmrc.common.exit_codes import Failed, Interrupted
from lmrc.config.schema import WorkOptions
from lmrc.inference.protocol import Inference
from lmrc.inference.work_units import UnitCounts, Units, WorkPlan, clean, counts
from lmrc.inference.worker import Worker
from lmrc.runs.lease import Lease, LeaseHeld
from lmrc.runs.shared_fs import Files

__all__ = ["UnitCounts", "UnitsFailed", "clean", "counts", "work"]


class UnitsFailed(Failed):
    """Some units failed at every attempt; all others are done."""


def never() -> bool:
    """Nobody asks to stop."""
    return False


def work(
    run_folder: Path,
    inference: Inference,
    options: WorkOptions,
    job: str | None = None,
    stop: Callable[[], bool] = never,
    progress: Callable[[str], None] = print,
    files: Files | None = None,
) -> dict[str, Any] | None:
    """Take part in the inference of a run until it is finished.

    Returns what `inference.finish` returned in the worker that merged; None in the others, and where DONE is there.
    The caller then writes DONE and calls `clean`. `stop` is asked between units, and `load` and `rows` may raise
    Interrupted.

    Raises Interrupted once the unit in hand is given back, UnitsFailed where units failed `options.attempts` times,
    WorkerFailed where every unit fails in this worker, RunError where RUN/units holds other work, is damaged or
    cannot be written, and what `inference.load` raises; the unit in hand is then given back too.
    `job` is SLURM's unless given.
    """
    job = os.environ.get("SLURM_JOB_ID") if job is None else job
    files = files or Files()
    units = Units(run_folder, files)
    plan = WorkPlan.of(inference, options.docs_per_unit)
    try:
        units.prepare(plan)
        if _finished(run_folder, files):
            clean(run_folder)
            return None
        with Worker(units, plan, inference, options, job, stop, progress) as worker:
            worker.compute()
            failed = units.unfinished()
            if failed:
                raise UnitsFailed(_failures(units, plan, failed))
    except OSError as error:
        if _cleaned(run_folder, units):  # while this worker was at a unit that another did too
            return None
        raise RunError(
            f"cannot work in {units.folder}: {error.strerror}; free space or mend the permissions, then repeat the "
            f"command: finished units are kept"
        ) from error
    try:
        return _merge(run_folder, units, plan, inference, options, job, stop, progress)
    except LeaseHeld as held:
        progress(f"all {plan.units} units are done; {held.holder.process or 'another process'} merges them")
        return None
    except RunError:
        if _cleaned(run_folder, units):  # while this worker was about to look whether it should merge
            return None
        raise


def _finished(run_folder: Path, files: Files) -> bool:
    try:
        files.read(run_folder / "DONE")
    except FileNotFoundError:
        return False
    return True


def _cleaned(run_folder: Path, units: Units) -> bool:
    """Whether the run was finished by another, though it was not when last asked; leaves nothing behind."""
    with contextlib.suppress(OSError):  # a full disk is told of elsewhere
        units.files.refresh(run_folder)
    if not _finished(run_folder, units.files):
        return False
    clean(run_folder)
    return True


def _merge(
    run_folder: Path,
    units: Units,
    plan: WorkPlan,
    inference: Inference,
    options: WorkOptions,
    job: str | None,
    stop: Callable[[], bool],
    progress: Callable[[str], None],
) -> dict[str, Any] | None:
    """Make the outputs from the parts, in one worker at a time. Raises LeaseHeld where another live one is at it."""
    merged = units.folder / "merged.json"
    with Lease(units.folder / "merge", options.lease_seconds, job, files=units.files):
        try:
            # An earlier one got so far, and may have died before DONE was written.
            result: dict[str, Any] = json.loads(units.files.read(merged)[0])
            return result
        except FileNotFoundError:
            pass
        # Asked only now: what is not merged yet was not cleaned away either, unless DONE was written before.
        if _cleaned(run_folder, units):
            return None
        progress(f"all {plan.units} units are done: merging them")
        rows = _Rows(units.rows(plan), stop)
        result = inference.finish(rows)
        if rows.drawn != plan.documents:
            raise RuntimeError(f"the stage took {rows.drawn} of {plan.documents} rows")
        units.files.publish(merged, json.dumps(result).encode())
        return result


class _Rows(Iterator[dict[str, Any]]):
    """Counts the rows that are drawn, and stops between them when asked to."""

    def __init__(self, rows: Iterator[dict[str, Any]], stop: Callable[[], bool]) -> None:
        self.drawn = 0
        self._rows, self._stop = rows, stop

    def __next__(self) -> dict[str, Any]:
        if self._stop():
            raise Interrupted("Stopped while merging; the same command merges again.")
        row = next(self._rows)
        self.drawn += 1
        return row


def _failures(units: Units, plan: WorkPlan, failed: list[int]) -> str:
    """What failed, a line a unit."""
    lines = []
    for unit in sorted(failed):
        documents = plan.range(unit)
        attempts = sorted(units.failures(unit))
        errors = [units.error(unit, attempt) for attempt in attempts]
        causes = [f"document {one['document']}: {one['error']}" for error in errors for one in error["culprits"]]
        for attempt, error in zip(attempts, errors, strict=True):
            document = units.marked(unit, attempt) if error["died"] else None
            if document is not None:
                causes.append(f"document {document}: {error['error']} while it tried this one alone")
        if not causes:
            causes.append(f"{errors[-1]['error']} (no document fails by itself)")
        lines.append(
            f"documents {documents.start} to {documents.stop - 1} (unit {unit}), {len(attempts)} attempts: "
            f"{'; '.join(causes)}"
        )
    return (
        f"{len(failed)} of {plan.units} units failed, all others are done:\n  " + "\n  ".join(lines) + "\n"
        f"Tracebacks are in {units.folder}/error-*.json. The same command tries these again."
    )
