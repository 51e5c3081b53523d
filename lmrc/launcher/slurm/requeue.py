"""How a job comes back: by itself after it saved on a signal, and from its batch script after a process died.

SLURM puts a job back after a node's failure, but not where a process of it was killed; the batch script then runs
`python -m lmrc.launcher.slurm.requeue RUN STATUS MAX_REQUEUES`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lmrc.inference.work_units import counts
from lmrc.launcher.slurm import commands as slurm
from lmrc.runs.events import History
from lmrc.runs.failures import Attempt, attempt_outcome
from lmrc.runs.run_folder import RunFolder

# Of srun: a process ended by signal N gives 128 + N.
FIRST_SIGNAL_STATUS = 128
# Deaths in a row without a new checkpoint: what killed it this often will do so again.
DEATHS_WITHOUT_PROGRESS = 3


def this_attempt(job: str) -> Attempt:
    """The attempt that this process belongs to, in a job of SLURM's or of this machine."""
    return Attempt(job, int(os.environ.get("SLURM_RESTART_COUNT", "0")))


def requeue(folder: Path, attempt: Attempt, most: int) -> bool:
    """Put the job back into the queue, and note it. Returns False, with the reason noted, where it stays ended."""
    history = History(folder)

    def stays(event: str, cause: str) -> bool:
        print(f"Not requeued: {cause}", flush=True)
        history.add(event, job=attempt.job, restart=attempt.restart, cause=cause)
        return False

    if "SLURM_JOB_ID" not in os.environ:
        return stays("stopped", "no SLURM here; the same command resumes the run")
    try:
        known = slurm.job(attempt.job)
        if known is not None and known.state != "RUNNING":
            if known.state.startswith("CANCELLED"):
                return stays("cancelled", "the job was cancelled")
            print(f"SLURM has ended the job ({known.state}), and decides whether it comes back", flush=True)
            return False
        if attempt.restart >= most:
            return stays("failed", f"it came back {attempt.restart} times, as often as cluster.max_requeues allows")
        # Before, as this process may not outlive the command.
        history.add("requeued", job=attempt.job, restart=attempt.restart)
        slurm.requeue(attempt.job)
    except slurm.SlurmError as error:
        return stays("failed", f"not requeued: {error}")
    return True


def after_death(folder: Path, attempt: Attempt, status: int, most: int) -> bool:
    """What follows when the job's processes ended with `status` != 0. Returns whether the job comes back.

    It does where a process was killed or lost touch with another; an error of its own would only be repeated.
    """
    if RunFolder(folder).result() is not None:
        return False
    history = History(folder)
    if any(
        (event["event"], event.get("job"), event.get("restart")) == ("requeued", attempt.job, attempt.restart)
        for event in history.read()
    ):
        return True  # asked for by rank 0 once all had saved; SLURM then ended the processes
    end, killed = attempt_outcome(folder, attempt), status >= FIRST_SIGNAL_STATUS
    # SLURM kills the other processes where one ended in an error of its own: the status alone does not tell.
    if not (end.lost_peer or (killed and not end.cause)):
        cause = end.cause or f"ended with status {status}"
        history.add("failed", job=attempt.job, restart=attempt.restart, cause=cause)
        return False
    said = end.cause or f"a process was killed by signal {status - FIRST_SIGNAL_STATUS}"
    step = _progress(folder)
    history.add("died", job=attempt.job, restart=attempt.restart, cause=said, step=step)
    own = [event for event in history.read() if event.get("job") == attempt.job]
    last = [event for event in own if event["event"] in ("died", "preempted")][-DEATHS_WITHOUT_PROGRESS:]
    if len(last) == DEATHS_WITHOUT_PROGRESS and all(
        event["event"] == "died" and event.get("step") == step for event in last
    ):
        cause = f"it died {DEATHS_WITHOUT_PROGRESS} times without getting beyond {step}: {said}"
        print(f"Not requeued: {cause}", flush=True)
        history.add("failed", job=attempt.job, restart=attempt.restart, cause=cause)
        return False
    print(f"{said}: back into the queue", flush=True)
    return requeue(folder, attempt, most)


def _progress(folder: Path) -> int:
    """The step of the newest checkpoint, or the units that are done."""
    if (folder / "units").exists():
        return counts(folder).done
    try:
        return int((folder / "checkpoints" / "latest").read_text().strip().removeprefix("step-"))
    except (OSError, ValueError):
        return 0


def main() -> None:
    """`python -m lmrc.launcher.slurm.requeue RUN STATUS MAX_REQUEUES` in a batch script."""
    folder, status, most = sys.argv[1:]
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    after_death(Path(folder), this_attempt(job), int(status), int(most))


if __name__ == "__main__":
    main()
