"""Distributed inference: any number of workers compute every unit of documents once, even if workers die.

A worker claims a unit by an exclusive hard link, computes its rows and publishes them as a part. Only the part marks
the unit as done, and the first part stays. If no unit is free, a worker takes over units of workers that died, failed
or are slow. When all units are done, one worker merges the parts.

Invariants, which `tests/inference/test_interleavings.py` checks over all orders of operations with few disturbances:

1. No server process and no open port: the state is the names of the files in RUN/units.
2. Any worker may die or stop at any instruction. Those that are left, or the same command again, finish the work.
3. Idle workers take over units of others. A disturbance costs the unit at work and no other.
4. Listings and missing files may be seconds old, as on NFS. Only exclusive links decide.
5. The bytes of the output do not depend on which workers computed which units.
"""

from __future__ import annotations

import contextlib
import json
import logging
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

logger = logging.getLogger(__name__)

__all__ = ["UnitCounts", "UnitsFailed", "clean", "counts", "work"]


class UnitsFailed(Failed):
    """Units that failed at every attempt, while all others are done."""


def work(
    run_folder: Path,
    inference: Inference,
    options: WorkOptions,
    job: str | None = None,
    stop: Callable[[], bool] = lambda: False,
    files: Files | None = None,
) -> dict[str, Any] | None:
    """Take part in the inference of a run until it is finished.

    If it raises, the current unit is released to other workers.

    Args:
        run_folder: The run folder.
        inference: The inference to run. Its `load` and `rows` may raise Interrupted.
        options: The section `work` of the config.
        job: SLURM's job id; None takes it from the environment.
        stop: Called between units; True asks to stop.
        files: The file system operations; tests replace them.

    Returns:
        What `inference.finish` returned, in the worker that merged: it then writes DONE and calls `clean`. None in
        other workers, and if DONE exists.

    Raises:
        Interrupted: It was asked to stop.
        UnitsFailed: Units failed `options.attempts` times.
        WorkerFailed: Every unit fails in this worker.
        RunError: RUN/units belongs to another inference, is damaged, or cannot be written.
        UserError: `inference.load` raised it.
    """
    job = os.environ.get("SLURM_JOB_ID") if job is None else job
    files = files or Files()
    units = Units(run_folder, files)
    plan = WorkPlan.of(inference, options.docs_per_unit)
    try:
        units.prepare(plan)
        if _has_done(run_folder, files):
            clean(run_folder)
            return None
        with Worker(units, plan, inference, options, job, stop) as worker:
            worker.compute()
            failed = units.unfinished()
            if failed:
                raise UnitsFailed(_describe_failures(units, plan, failed))
    except OSError as error:
        if _cleaned_by_another(run_folder, units):  # during a unit that another worker did too
            return None
        raise RunError(
            f"cannot work in {units.folder}: {error.strerror}; free space or correct the permissions, then repeat the "
            f"command: finished units are kept"
        ) from error
    try:
        return _merge(run_folder, units, plan, inference, options, job, stop)
    except LeaseHeld as held:
        logger.info(f"all {plan.units} units are done; {held.holder.process or 'another process'} merges them")
        return None
    except RunError:
        if _cleaned_by_another(run_folder, units):  # just before this worker would have merged
            return None
        raise


def _has_done(run_folder: Path, files: Files) -> bool:
    try:
        files.read(run_folder / "DONE")
    except FileNotFoundError:
        return False
    return True


def _cleaned_by_another(run_folder: Path, units: Units) -> bool:
    """Return True if another worker has finished the run meanwhile. RUN/units is then removed."""
    with contextlib.suppress(OSError):  # a full disk is reported elsewhere
        units.files.refresh(run_folder)
    if not _has_done(run_folder, units.files):
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
) -> dict[str, Any] | None:
    """Write the outputs from the parts, in one worker at a time.

    Raises:
        LeaseHeld: Another live worker is merging.
    """
    merged = units.folder / "merged.json"
    with Lease(units.folder / "merge", options.lease_seconds, job, files=units.files):
        try:
            # An earlier worker merged, but may have died before it wrote DONE.
            result: dict[str, Any] = json.loads(units.files.read(merged)[0])
            return result
        except FileNotFoundError:
            pass
        # Only under the lease: now merged.json can be missing only if nobody merged, or if the run was cleaned.
        if _cleaned_by_another(run_folder, units):
            return None
        logger.info(f"all {plan.units} units are done: merging them")
        rows = _CountedRows(units.rows(plan), stop)
        result = inference.finish(rows)
        if rows.count != plan.documents:
            raise RuntimeError(f"the stage took {rows.count} of {plan.documents} rows")
        units.files.publish(merged, json.dumps(result).encode())
        return result


class _CountedRows(Iterator[dict[str, Any]]):
    """An iterator over rows that counts them and can be stopped."""

    def __init__(self, rows: Iterator[dict[str, Any]], stop: Callable[[], bool]) -> None:
        self.count = 0
        self._rows, self._stop = rows, stop

    def __next__(self) -> dict[str, Any]:
        if self._stop():
            raise Interrupted("Stopped while merging; the same command merges again.")
        row = next(self._rows)
        self.count += 1
        return row


def _describe_failures(units: Units, plan: WorkPlan, failed: list[int]) -> str:
    """Return a message with one line per failed unit: its documents and the causes."""
    lines = []
    for unit in sorted(failed):
        documents = plan.range(unit)
        attempts = sorted(units.failures(unit))
        errors = [units.error(unit, attempt) for attempt in attempts]
        culprits = [culprit for error in errors for culprit in error["culprits"]]
        causes = [f"document {culprit['document']}: {culprit['error']}" for culprit in culprits]
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
