"""Requeue a job: after it saved on a signal, or from its batch script after a process died.

SLURM requeues a job after a node failure, but not after one of its processes was killed. The batch script then runs
`python -m lmrc.launcher.slurm.requeue RUN STATUS MAX_REQUEUES`. In a chain the next job goes on instead. The batch
script then always runs this module, which cancels the later jobs if they are not needed.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
from collections.abc import Collection, Sequence
from dataclasses import astuple
from pathlib import Path

from lmrc.common.logging import set_up_stage_logging
from lmrc.launcher.slurm import commands as slurm
from lmrc.launcher.slurm import job_chain
from lmrc.runs.events import History
from lmrc.runs.failures import BROKEN_NODE_STATUS, Attempt, AttemptOutcome, attempt_outcome
from lmrc.runs.run_folder import RunFolder

logger = logging.getLogger(__name__)

# srun exits with 128 + N if a process was killed by signal N.
FIRST_SIGNAL_STATUS = 128
# Events after which it is decided how an interrupted job goes on.
DECIDED = frozenset({"requeued", "failed", "cancelled", "stopped"})
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
    own = job_chain.submission(history.read(), attempt.job)

    def give_up(event: str, cause: str) -> bool:
        logger.warning(f"Not requeued: {cause}")
        history.add(event, job=attempt.job, restart=attempt.restart, cause=cause)
        if event == "cancelled":
            job_chain.cancel_later(folder, attempt.job)
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
        if "chain" in own:
            return _hand_over(folder, attempt, broken_nodes) or give_up(
                "stopped", f"it was job {own['number']}, the last of a chain; the same command resumes the run"
            )
        if own.get("requeue") == "never":
            return give_up("stopped", "cluster.requeue is never; the same command resumes the run")
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


def _hand_over(folder: Path, attempt: Attempt, broken_nodes: Sequence[str]) -> bool:
    """Let the next job of the chain go on. Return False if there is none."""
    links = job_chain.find_chain(folder, attempt.job)
    if links is None or not links.later:
        return False
    excluded = {"excluded": ",".join(broken_nodes)} if broken_nodes else {}
    History(folder).add("requeued", job=attempt.job, restart=attempt.restart, next=links.later[0], **excluded)
    logger.info(f"job {links.later[0]} of the chain goes on")
    for job in links.later if broken_nodes else ():
        _exclude(job, broken_nodes)
    return True


def _exclude(job: str, nodes: Sequence[str]) -> None:
    try:
        slurm.exclude_nodes(job, nodes)
    except slurm.SlurmError as error:
        logger.warning("%s could not be excluded from the requeued job %s: %s", ",".join(nodes), job, error)
    else:
        logger.warning(
            "%s is excluded from job %s; lift it with: scontrol update jobid=%s excnodelist=",
            *(",".join(nodes), job, job),
        )


def note_interruption(folder: Path, attempt: Attempt, cause: str) -> None:
    """Record that a process of the job has saved its state and ended. The batch script then calls `at_the_end`."""
    history = History(folder)
    if not _was_recorded(history, attempt, {"preempted"}):
        history.add("preempted", job=attempt.job, restart=attempt.restart, cause=cause)


def _was_recorded(history: History, attempt: Attempt, events: Collection[str]) -> bool:
    """Return True if the history has one of these events for this attempt."""
    own = (row["event"] for row in history.read() if (row.get("job"), row.get("restart")) == astuple(attempt))
    return any(event in events for event in own)


def at_the_end(folder: Path, attempt: Attempt, status: int, max_requeues: int) -> None:
    """Decide in the batch script how an ended job goes on.

    Args:
        status: exit status of srun.
    """
    history = History(folder)
    if RunFolder(folder).result() is not None:
        job_chain.cancel_later(folder, attempt.job)
    elif _was_recorded(history, attempt, {"preempted"}) and not _was_recorded(history, attempt, DECIDED):
        requeue(folder, attempt, max_requeues)
    elif status and not after_death(folder, attempt, status, max_requeues) and "_" not in attempt.job:
        # The other workers of an array go on.
        job_chain.cancel_later(folder, attempt.job)


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
    if _was_recorded(history, attempt, {"requeued"}):
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
    step = job_chain.progress(folder)
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


def main() -> None:
    """Run `at_the_end` with the arguments of the batch script."""
    set_up_stage_logging()
    folder, status, max_requeues = sys.argv[1:]
    at_the_end(Path(folder), current_attempt(job_chain.current_job()), int(status), int(max_requeues))


if __name__ == "__main__":
    main()
