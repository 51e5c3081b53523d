"""The state of runs. The truth is, in this order: DONE, SLURM's queue, the lease and the workers' signs of life, the
last event of the history. "PREEMPTED" and "REQUEUED" are not the end of a job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lmrc.common.errors import RunError
from lmrc.launcher.slurm import commands as slurm
from lmrc.monitor.run_state import (
    TRAININGS,
    Work,
    kind_of,
    newest_failure,
    read_config,
    result,
    training_progress,
    work_of,
)
from lmrc.monitor.slurm_queue import Queue, ask_queue, slurm_id
from lmrc.runs.events import History
from lmrc.runs.failures import Attempt, attempt_outcome
from lmrc.runs.lease import Holder, holder

RESUMES = "the same command resumes it"
IN_VAIN = "what it was to follow failed: mend that, then the command of the chain submits both again"
# What follows such an event is up to someone: without a job or a process the run goes on no more by itself.
UNDECIDED = frozenset({"submitted", "started", "preempted", "requeued", "died", "finished"})


@dataclass
class Status:
    """A run; `as_json` is what `lmrc status --json` lists.

    `state` is one of queued, running, done, failed, cancelled, stopped (it saved and ended when asked to), dead (it was
    to run, and neither a job nor a process of it is left), unknown (SLURM cannot be asked), new. Times are UTC.
    What is not known, or has no meaning for the run, is null.
    """

    run: str
    kind: str
    """rcp, rc, propose, classify, build, score, demo, or run."""
    state: str
    detail: str = ""
    """SLURM's reason, the cause, or what to do."""
    job: str | None = None
    """SLURM's id (of the whole array), or local-PID."""
    nodes: str | None = None
    since: str | None = None
    """Of the present start."""
    preempted: int = 0
    requeued: int = 0
    died: int = 0
    step: int | None = None
    """Optimizer steps, of a training."""
    total: int | None = None
    epoch: int | None = None
    loss: float | None = None
    unit: str | None = None
    """What `per_second` counts: documents, queries …"""
    per_second: float | None = None
    """Null unless it runs; so is `seconds_left`."""
    seconds_left: float | None = None
    units: dict[str, int] | None = None
    """Of an inference: total, done, claimed, failed."""
    failures: list[str] = field(default_factory=list)
    """A line for each failed unit."""
    metric: str | None = None
    best: float | None = None
    best_step: int | None = None
    error: str | None = None
    """The last error; null once done."""
    result: dict[str, Any] | None = None
    """What DONE holds."""
    jobs: list[dict[str, Any]] = field(default_factory=list)
    """Those that SLURM remembers: id, state, reason, restarts, nodes."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """The last five of log/history.jsonl."""
    log: str | None = None
    """What rank 0, or the first worker, printed last."""

    def as_json(self) -> dict[str, Any]:
        """All of it, always with the same keys."""
        return asdict(self)


def statuses(folders: Sequence[Path]) -> tuple[list[Status], list[str]]:
    """The state of each run folder, and what could not be found out: a line each."""
    histories = {folder: History(folder).read() for folder in folders}
    works = {folder: _work(folder) for folder in folders}
    wanted = {job for folder in folders for job in _jobs_of(histories[folder], works[folder])}
    queue = ask_queue(wanted)
    found, remarks = [], [queue.silence] if queue.silence and wanted else []
    for folder, history in histories.items():
        status, remark = _look(folder, history, works[folder], queue)
        found.append(status)
        remarks += [remark] if remark else []
    for status in found:
        if status.state == "new":
            _judge_by_inner(status, [other for other in found if other.run.startswith(f"{status.run}/")])
    return found, remarks


def _work(folder: Path) -> Work | None:
    options = read_config(folder).get("work")
    seconds = options.get("lease_seconds", 60.0) if isinstance(options, dict) else 60.0
    return work_of(folder, seconds) if result(folder) is None else None


def _jobs_of(history: list[dict[str, Any]], work: Work | None) -> list[str]:
    """SLURM's ids, the newest last, of what the run was submitted as; workers of a plain sbatch stand in no history."""
    named = [job for event in history if (job := slurm_id(event)) is not None]
    return list(dict.fromkeys([*named, *sorted(work.submissions if work else ())]))


def _look(folder: Path, history: list[dict[str, Any]], work: Work | None, queue: Queue) -> tuple[Status, str]:
    config = read_config(folder)
    status = Status(str(folder), kind_of(config), "new", "nothing has run yet", events=history[-5:])
    status.result = result(folder)
    for event in history:
        if event["event"] in ("preempted", "requeued", "died"):
            setattr(status, event["event"], getattr(status, event["event"]) + 1)
    identifiers = _jobs_of(history, work)
    jobs = [job for identifier in identifiers for job in queue.jobs.get(identifier, [])]
    status.jobs = [asdict(job) for job in jobs]
    if history:
        last = str(next((event["job"] for event in reversed(history) if event.get("job")), "")) or None
        status.job = last if last is None or last.startswith("local-") else last.partition("_")[0]
    elif identifiers:
        status.job = identifiers[-1]
    remark = _judge(folder, status, history, jobs, queue, work)
    _measure(folder, config, status, work)
    status.log = _log(folder, status.job)
    if status.state != "done":
        status.error = _error(status, history)
    return status, remark


def _judge(
    folder: Path,
    status: Status,
    history: list[dict[str, Any]],
    jobs: list[slurm.SlurmJob],
    queue: Queue,
    work: Work | None,
) -> str:
    """Set state, detail, job, nodes and since. Returns what could not be found out."""
    remark = ""
    if status.result is not None:
        status.state, status.detail = "done", ""
        return remark
    active = [job for job in jobs if job.is_active]
    if active:
        _judge_by_jobs(status, history, active)
        return remark
    held: Holder | None = None
    try:
        held = holder(folder)
    except RunError as error:
        remark = str(error)
    # What SLURM has ended gives no more signs of life, though its last one is less than a lease old.
    over = {job.id.partition("_")[0] for job in jobs}
    if held is not None and held.process is not None and held.process.submission in over:
        held = None
    processes = [held.process] if held and held.heartbeat_age is not None else list(work.workers if work else [])
    known = [process for process in processes if process and process.submission not in over]
    if known or (processes and None in processes):
        status.state, status.detail = "running", f"{len(known)} workers" if len(known) > 1 else str(*known[:1])
        status.nodes = ",".join(sorted({process.host for process in known})) or None
        status.since = min((process.time for process in known), default=None)
        return remark
    if held is not None:
        status.state, status.detail = "unknown", f"{held.process or 'a process'} held it; its signs of life are hidden"
        return f"{folder} is read-only to you: whether a process of it lives cannot be told"
    last = history[-1] if history else {"event": "none"}
    if last["event"] not in UNDECIDED | {"none"}:
        status.state, status.detail = last["event"], str(last.get("cause", ""))
    else:
        _judge_by_end(folder, status, last, jobs, queue, work)
    return remark


def _judge_by_jobs(status: Status, history: list[dict[str, Any]], active: list[slurm.SlurmJob]) -> None:
    waiting = [job for job in active if job.state == "PENDING"]
    present = [job for job in active if job.state != "PENDING"]
    status.job = active[0].id.partition("_")[0]
    status.nodes = ",".join(sorted({job.nodes for job in present if job.nodes})) or None
    reason = waiting[0].reason if waiting else ""
    if not present:
        status.state, status.detail = "queued", f"{len(waiting)} workers, {reason}" if len(waiting) > 1 else reason
        return
    status.state = "running"
    parts = [f"{len(present)} workers"] if len(active) > 1 else []
    parts += [f"{len(waiting)} wait ({reason})"] if waiting else []
    parts += sorted({job.state.lower() for job in present if job.state != "RUNNING"})
    starts = [event for event in history if event["event"] == "started" and slurm_id(event) == status.job]
    # What has not said so yet is still importing its code.
    if starts and starts[-1].get("restart") == present[0].restarts:
        status.since = starts[-1]["time"]
    elif status.kind in TRAININGS:
        parts.append("starting")
    status.detail = ", ".join(parts)


def _judge_by_end(
    folder: Path,
    status: Status,
    last: dict[str, Any],
    jobs: list[slurm.SlurmJob],
    queue: Queue,
    work: Work | None,
) -> None:
    """Nothing of the run lives, and its history does not say how it ended."""
    note = newest_failure(folder) if last["event"] in ("none", "submitted", "started") else None
    if note is not None and last["event"] != "none" and note.job.partition("_")[0] != status.job:
        note = None  # of an earlier job
    end = attempt_outcome(folder, Attempt(note.job, note.restart)) if note else None
    own = [job for job in jobs if job.id.partition("_")[0] == status.job]
    over = next((job for job in own if job.state != "COMPLETED"), None)
    if end is not None and end.cause:
        status.state, status.detail = "failed", end.cause
    elif over is not None and over.waited_in_vain:
        status.state, status.detail = "cancelled", IN_VAIN
    elif over is not None and over.state.startswith("CANCELLED"):
        status.state, status.detail = "cancelled", RESUMES
    elif over is not None:
        status.state, status.detail = "failed", f"SLURM ended the job: {over.state}; {RESUMES}"
    elif last["event"] == "preempted":
        status.state, status.detail = "stopped", str(last.get("cause", RESUMES))
    elif queue.silence and status.job and not status.job.startswith("local-"):
        heard = f", last heard of: {last['event']}" if last["event"] != "none" else ""
        status.state, status.detail = "unknown", f"SLURM cannot be asked of job {status.job}{heard}"
    elif last["event"] != "none" or work is not None or (folder / "metrics.jsonl").exists():
        status.state, status.detail = "dead", f"{RESUMES} (no job or process of it is left)"


def _judge_by_inner(status: Status, inner: list[Status]) -> None:
    """A run that is made of others, such as the demo, goes on as they do."""
    states = [other.state for other in inner]
    for state in ("running", "queued", "failed", "dead", "unknown", "cancelled", "stopped"):
        if state in states:
            other = inner[states.index(state)]
            status.state, status.detail = state, f"in {Path(other.run).name}"
            return
    if states:
        status.state, status.detail = "stopped", f"{states.count('done')} stages done: {RESUMES}"


def _measure(folder: Path, config: dict[str, Any], status: Status, work: Work | None) -> None:
    """Set how far the run is."""
    runs = status.state == "running"
    if work is not None:
        status.units = {"total": work.total, "done": work.done, "claimed": work.claimed, "failed": work.failed}
        status.failures = work.failures
        if runs:
            status.unit, status.per_second = "documents", work.documents_per_second
            status.seconds_left = work.seconds_left
    if status.kind not in TRAININGS:
        f1 = (status.result or {}).get("f1")
        if f1 is not None:
            status.metric, status.best = "f1", f1
        return
    found = training_progress(folder, config)
    status.step, status.total, status.epoch, status.loss = found.step, found.total, found.epoch, found.loss
    status.metric, status.best, status.best_step = found.metric, found.best, found.best_step
    # The figures of an earlier start say nothing of this one's speed.
    if runs and status.since is not None and found.is_since(status.since):
        status.unit, status.per_second, status.seconds_left = found.unit, found.per_second, found.seconds_left


def _log(folder: Path, job: str | None) -> str | None:
    if job is None:
        return None
    logs = folder.glob(f"log/{job.removeprefix('local-')}_*log.out")
    firsts = [path for path in logs if path.name.endswith("_0_log.out")]
    newest = max(firsts, key=lambda path: path.stat().st_mtime, default=None)
    return None if newest is None else str(newest)


def _error(status: Status, history: list[dict[str, Any]]) -> str | None:
    if status.state == "failed" and status.detail:
        return status.detail
    if status.failures:
        return status.failures[-1]
    causes = [str(event["cause"]) for event in history if event["event"] in ("failed", "died") and event.get("cause")]
    return causes[-1] if causes else None
