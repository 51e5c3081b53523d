"""A chain of jobs for a site that does not requeue: only one runs at a time, and each resumes the run.

All jobs of the chain are submitted at once and have the same name and --dependency=singleton. The batch script of each
begins with `python -m lmrc.launcher.slurm.job_chain RUN`, which ends the chain if the run is done, was cancelled, or
makes no progress. The jobs and their order are in the `submitted` events of the history.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmrc.common.logging import set_up_stage_logging
from lmrc.config.schema import ClusterOptions
from lmrc.inference.work_units import counts
from lmrc.launcher.slurm import commands as slurm
from lmrc.runs.events import History
from lmrc.runs.run_folder import RunFolder

logger = logging.getLogger(__name__)

SINGLETON = "singleton"
# Jobs in a row that may end without a new checkpoint or unit: one may have been preempted in its first seconds.
MAX_JOBS_WITHOUT_PROGRESS = 2
# Longer than SLURM waits between SIGTERM and SIGKILL (KillWait, 30 s by default).
MAX_COMPLETING_SECONDS = 120.0
# Exit status of this module that ends the batch script. Python itself exits with 1 or 2.
END_OF_CHAIN = 3


def resolve_requeue(options: ClusterOptions) -> tuple[ClusterOptions, list[str]]:
    """Decide how interrupted jobs go on.

    Returns:
        The options with `requeue`, `chain` or `never`, and a sentence if that was decided for the user.
    """
    if options.requeue != "auto":
        return options, []
    reason = ""
    if options.sbatch.get("no_requeue"):
        reason = "--sbatch no-requeue is given"
    else:
        try:
            if slurm.read_setting("JobRequeue") == "0":
                reason = "the site has JobRequeue=0"
        except slurm.SlurmError:
            pass  # the pre-flight reports that SLURM does not answer
    notes = [f"{reason}: a chain of {options.chain_jobs} jobs, each resumes the one before"] if reason else []
    return options.model_copy(update={"requeue": "chain" if reason else "requeue"}), notes


def job_name(name: str, run: Path) -> str:
    """Return a job name that no other run has, because jobs of one name wait for each other."""
    return f"lmrc-{name}-{hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:6]}"


@dataclass(frozen=True)
class Chain:
    """The part of a chain from one of its jobs on.

    Attributes:
        name: what the jobs of the chain have in common.
        number: position of the job in the chain, from 1.
        total: number of jobs in the chain.
        previous: jobs directly before it, which are several if the site's arrays are small; empty for the first.
        later: jobs after it, in order.
        after: runs that must be finished before the chain begins.
    """

    name: str
    number: int
    total: int
    previous: tuple[str, ...]
    later: tuple[str, ...]
    after: tuple[Path, ...]


def submission(events: Sequence[Mapping[str, Any]], job: str) -> Mapping[str, Any]:
    """Return the `submitted` event of a job or of the array of a task; empty if there is none."""
    identifier = job.partition("_")[0]
    return next((row for row in reversed(events) if row["event"] == "submitted" and row["job"] == identifier), {})


def find_chain(folder: Path, job: str) -> Chain | None:
    """Return the chain of a job; None if it was not submitted as part of one."""
    events = History(folder).read()
    own = submission(events, job)
    if "chain" not in own:
        return None
    links = [row for row in events if row["event"] == "submitted" and row.get("chain") == own["chain"]]
    number = int(own["number"])
    return Chain(
        name=str(own["chain"]),
        number=number,
        total=int(own["total"]),
        previous=tuple(str(row["job"]) for row in links if row["number"] == number - 1),
        later=tuple(str(row["job"]) for row in links if row["number"] > number),
        after=tuple(Path(path) for path in own.get("after", ())),
    )


def progress(folder: Path) -> int:
    """Return the step of the newest checkpoint, or the number of finished units of an inference."""
    if (folder / "units").exists():
        return counts(folder).done
    try:
        return int((folder / "checkpoints" / "latest").read_text().strip().removeprefix("step-"))
    except (OSError, ValueError):
        return 0


def cancel_later(folder: Path, job: str) -> None:
    """Cancel the jobs of the chain after this one. Does nothing without a chain."""
    chain = find_chain(folder, job)
    if chain is None or not chain.later:
        return
    logger.info(f"cancelling the {len(chain.later)} later jobs of the chain")
    try:
        slurm.cancel_pending(chain.later)
    except slurm.SlurmError as error:
        # Each would see by itself at its start that the chain has ended.
        logger.warning(f"the later jobs of the chain could not be cancelled: {error}")


def begin(folder: Path, job: str) -> bool:
    """Check at the start of a job whether the chain goes on. Return False if it has ended.

    The cause is recorded in the history, and the later jobs are cancelled.
    """
    chain = find_chain(folder, job)
    if chain is None:
        return True
    if RunFolder(folder).result() is not None:
        cancel_later(folder, job)
        return False
    # The first task of an array decides for all.
    if os.environ.get("SLURM_ARRAY_TASK_ID") != os.environ.get("SLURM_ARRAY_TASK_MIN"):
        return True
    history = History(folder)

    def end(event: str, cause: str) -> bool:
        logger.warning(f"The chain of jobs ends: {cause}")
        history.add(event, job=job, restart=0, cause=cause)
        cancel_later(folder, job)
        return False

    unfinished = [str(path) for path in chain.after if RunFolder(path).result() is None]
    if unfinished:
        return end("failed", f"{', '.join(unfinished)} is not finished; repeat the command of the pipeline")
    if _was_cancelled(chain.previous):
        return end("cancelled", f"job {', '.join(chain.previous)} of the chain was cancelled")
    before = [row for row in history.read() if row["event"] == "link" and row["chain"] == chain.name]
    done = progress(folder)
    idle = [row["progress"] == done for row in before[-MAX_JOBS_WITHOUT_PROGRESS:]]
    if len(idle) == MAX_JOBS_WITHOUT_PROGRESS and all(idle):
        return end("failed", f"the last {len(idle)} jobs of the chain made no progress beyond {done}")
    history.add("link", job=job, restart=0, chain=chain.name, number=chain.number, total=chain.total, progress=done)
    logger.info(f"job {chain.number} of {chain.total} of the chain, from {done} on")
    return True


def _was_cancelled(jobs: Sequence[str]) -> bool:
    """Return True if a user cancelled all of these jobs. SLURM has other states for jobs that it ended itself."""
    deadline = time.monotonic() + MAX_COMPLETING_SECONDS
    try:
        known = slurm.jobs(jobs)
        # This job may start while the last one is cleaned up. Until then the state does not say why that one ended.
        while any(job.state == "COMPLETING" for job in known) and time.monotonic() < deadline:
            time.sleep(1)
            known = slurm.jobs(jobs)
    except slurm.SlurmError:
        return False
    return bool(known) and all(job.state.startswith("CANCELLED") for job in known)


def current_job() -> str:
    """Return the id of the job, or of the array task, that this process is in."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]


def main() -> None:
    """Run `begin` for the run folder that the batch script gives."""
    set_up_stage_logging()
    if not begin(Path(sys.argv[1]), current_job()):
        sys.exit(END_OF_CHAIN)


if __name__ == "__main__":
    main()
