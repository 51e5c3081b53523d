"""Requeue a job: after it saved on a signal, or from its batch script after a process died.

SLURM requeues a job after a node failure, but not after one of its processes was killed. The batch script then runs
`python -m lmrc.launcher.slurm.requeue RUN STATUS MAX_REQUEUES`.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from lmrc.common.logging import set_up_stage_logging
from lmrc.inference.work_units import counts
from lmrc.launcher.slurm import commands as slurm
from lmrc.runs.events import History
from lmrc.runs.failures import BROKEN_NODE_STATUS, Attempt, AttemptOutcome, attempt_outcome
from lmrc.runs.run_folder import RunFolder

logger = logging.getLogger(__name__)

# srun exits with 128 + N if a process was killed by signal N.
FIRST_SIGNAL_STATUS = 128
# A job that died this often in a row without a new checkpoint is not requeued.
MAX_DEATHS_WITHOUT_PROGRESS = 3


def current_attempt(job: str) -> Attempt:
    """Return the attempt of the current process: its job and SLURM's restart count."""
    return Attempt(job, int(os.environ.get("SLURM_RESTART_COUNT", "0")))


def requeue(folder: Path, attempt: Attempt, max_requeues: int, broken_nodes: Sequence[str] = ()) -> bool:
    """Requeue the job and record it in the history. Return False, with the reason recorded, if it stays ended.

    Args:
        broken_nodes: nodes on which the job must not run again.
    """
    history = History(folder)

    def give_up(event: str, cause: str) -> bool:
        logger.warning(f"Not requeued: {cause}")
        history.add(event, job=attempt.job, restart=attempt.restart, cause=cause)
        return False

    if "SLURM_JOB_ID" not in os.environ:
        return give_up("stopped", "not a SLURM job; the same command resumes the run")
    try:
        known = slurm.job(attempt.job)
        if known is not None and known.state != "RUNNING":
            if known.state.startswith("CANCELLED"):
                return give_up("cancelled", "the job was cancelled")
            logger.info(f"SLURM has ended the job ({known.state}) and decides whether to requeue it")
            return False
        if attempt.restart >= max_requeues:
            return give_up("failed", f"it was requeued {attempt.restart} times, the limit of cluster.max_requeues")
        # Recorded before the command, which may end this process.
        excluded = {"excluded": ",".join(broken_nodes)} if broken_nodes else {}
        history.add("requeued", job=attempt.job, restart=attempt.restart, **excluded)
        if broken_nodes:
            # The requeue sends SIGTERM to this process, which must still exclude the nodes: SLURM allows that only for
            # a pending job, and lets a requeued job wait before it starts.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        slurm.requeue(attempt.job)
    except slurm.SlurmError as error:
        return give_up("failed", f"not requeued: {error}")
    if broken_nodes:
        _exclude(attempt.job, broken_nodes)
    return True


def _exclude(job: str, nodes: Sequence[str]) -> None:
    try:
        slurm.exclude_nodes(job, nodes)
    except slurm.SlurmError as error:
        logger.warning("%s could not be excluded from the requeued job %s: %s", ",".join(nodes), job, error)
    else:
        logger.warning(
            "%s is excluded from the requeued job; lift it with: scontrol update jobid=%s excnodelist=",
            *(",".join(nodes), job),
        )


def after_death(folder: Path, attempt: Attempt, status: int, max_requeues: int) -> bool:
    """Requeue the job if a process was killed, lost its peer or had a hardware error.

    Other errors would only be repeated. A node with a hardware error is excluded from the job.

    Args:
        status: exit status of srun, not 0.

    Returns:
        True if the job was requeued.
    """
    if RunFolder(folder).result() is not None:
        return False
    history = History(folder)
    if any(
        (event["event"], event.get("job"), event.get("restart")) == ("requeued", attempt.job, attempt.restart)
        for event in history.read()
    ):
        return True  # rank 0 requeued it after all had saved; SLURM then ended the processes
    outcome, killed = attempt_outcome(folder, attempt), status >= FIRST_SIGNAL_STATUS
    if status == BROKEN_NODE_STATUS and not outcome.broken_nodes:
        outcome = _unreported_node(folder, attempt)
    # SLURM also kills the remaining processes after one failed, so the status alone is not enough.
    if not (outcome.lost_peer or outcome.broken_nodes or (killed and not outcome.cause)):
        cause = outcome.cause or f"ended with status {status}"
        logger.error("Not requeued: %s", cause)
        history.add("failed", job=attempt.job, restart=attempt.restart, cause=cause)
        return False
    death = outcome.cause or f"{_killed_task(folder, attempt)} was killed by signal {status - FIRST_SIGNAL_STATUS}"
    step = _progress(folder)
    broken = {"broken_nodes": ",".join(outcome.broken_nodes)} if outcome.broken_nodes else {}
    history.add("died", job=attempt.job, restart=attempt.restart, cause=death, step=step, **broken)
    own = [event for event in history.read() if event.get("job") == attempt.job]
    last = [event for event in own if event["event"] in ("died", "preempted")][-MAX_DEATHS_WITHOUT_PROGRESS:]
    if len(last) == MAX_DEATHS_WITHOUT_PROGRESS and all(
        event["event"] == "died" and event.get("step") == step for event in last
    ):
        cause = f"it died {MAX_DEATHS_WITHOUT_PROGRESS} times without getting beyond {step}: {death}"
        logger.warning(f"Not requeued: {cause}")
        history.add("failed", job=attempt.job, restart=attempt.restart, cause=cause)
        return False
    logger.warning(f"{death}: requeueing")
    return requeue(folder, attempt, max_requeues, outcome.broken_nodes)


def _killed_task(folder: Path, attempt: Attempt) -> str:
    """Return the rank and host that srun reports as killed first, from the job's log; else "a process"."""
    match = _srun_error(folder, attempt, "Killed|Out Of Memory|Aborted|Segmentation fault|Bus error")
    return f"rank {match[2]} on {match[1]}" if match else "a process"


def _unreported_node(folder: Path, attempt: Attempt) -> AttemptOutcome:
    """Return the outcome of an attempt with a node that could not even write its report to the run folder."""
    match = _srun_error(folder, attempt, f"Exited with exit code {BROKEN_NODE_STATUS}")
    if match is None:
        return AttemptOutcome()
    cause = f"rank {match[2]} on {match[1]}: node check: the node cannot write its report to {folder}"
    return AttemptOutcome(cause, broken_nodes=(match[1],))


def _srun_error(folder: Path, attempt: Attempt, what: str) -> re.Match[str] | None:
    """Return the first message of srun of this kind in the job's log, with the node and its tasks as groups."""
    try:
        log = (folder / "log" / f"{attempt.job}_0_log.out").read_text(errors="replace")
    except OSError:
        return None
    # Earlier starts of the job wrote to the same log. Each begins with a line of submitit.
    newest = log.rpartition("Starting with JobEnvironment")[2]
    return re.search(rf"^srun: error: (\S+): tasks? ([\d,-]+): (?:{what})", newest, re.MULTILINE)


def _progress(folder: Path) -> int:
    """Return the step of the newest checkpoint, or the number of finished units of an inference."""
    if (folder / "units").exists():
        return counts(folder).done
    try:
        return int((folder / "checkpoints" / "latest").read_text().strip().removeprefix("step-"))
    except (OSError, ValueError):
        return 0


def main() -> None:
    """Run `after_death` with the arguments of the batch script."""
    set_up_stage_logging()
    folder, status, max_requeues = sys.argv[1:]
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    after_death(Path(folder), current_attempt(job), int(status), int(max_requeues))


if __name__ == "__main__":
    main()
