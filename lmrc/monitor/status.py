"""The state of runs, for `lmrc status`.

It is determined from, in this order: DONE, SLURM's queue, the lease and the workers' heartbeats, the last event of the
history. The SLURM states PREEMPTED and REQUEUED do not mean that a job has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lmrc.common.errors import RunError
from lmrc.launcher.slurm import commands as slurm
from lmrc.launcher.slurm.job_chain import submission
from lmrc.monitor.run_state import (
    TRAININGS,
    InferenceProgress,
    Progress,
    inference_progress,
    read_config,
    result,
    stage_of,
    training_progress,
)
from lmrc.monitor.slurm_queue import Queue, ask_queue, slurm_id
from lmrc.runs.events import History
from lmrc.runs.failures import Attempt, attempt_outcome, newest_failure
from lmrc.runs.lease import Holder, holder
from lmrc.usage.record import run_figures

RESUMES = "the same command resumes it"
DEPENDENCY_FAILED = "its dependency failed; fix that, then run the pipeline command again"
# Last events after which a run is still open: if neither a job nor a process is left, it is dead.
OPEN_EVENTS = frozenset({"submitted", "link", "started", "preempted", "requeued", "died", "finished"})


@dataclass(kw_only=True)
class Status(Progress):
    """The state of a run, as printed by `lmrc status --json`. Unknown values are null; times are UTC.

    Attributes:
        kind: rcp, rc, propose, classify, build, split, join, fit, score, summary, demo, or run.
        state: queued, running, done, failed, cancelled, stopped (saved and ended after a signal), dead (unfinished,
            without a job or process), unknown (SLURM does not answer), or new.
        detail: SLURM's reason, the cause of a failure, or what to do.
        job: SLURM job id (of the whole array), or local-PID.
        since: start of the current job or process.
        units: units of an inference: total, done, claimed, failed.
        failures: one line per failed unit.
        bad_nodes: nodes with a hardware error or a failed check, each with its last cause.
        use: figures of the use of the hardware, as in DONE (docs/slurm.md); null if none are known.
        error: the last error; null if done.
        result: content of DONE.
        jobs: jobs known to SLURM: id, state, reason, restarts, nodes.
        events: the last five events of log/history.jsonl.
        log: the newest log file of rank 0 or of the first worker.
    """

    run: str
    kind: str
    state: str
    detail: str
    job: str | None = None
    nodes: str | None = None
    since: str | None = None
    preempted: int = 0
    requeued: int = 0
    died: int = 0
    units: dict[str, int] | None = None
    failures: list[str] = field(default_factory=list)
    bad_nodes: dict[str, str] = field(default_factory=dict)
    use: dict[str, Any] | None = None
    error: str | None = None
    result: dict[str, Any] | None = None
    jobs: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    log: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return all fields, always with the same keys."""
        return {"run": self.run, "kind": self.kind, "state": self.state} | asdict(self)


def run_statuses(folders: Sequence[Path]) -> tuple[list[Status], list[str]]:
    """Return the state of each run, and one line per thing that could not be determined."""
    histories = {folder: History(folder).read() for folder in folders}
    inferences = {folder: _inference(folder) for folder in folders}
    wanted = {job for folder in folders for job in _job_ids(histories[folder], inferences[folder])}
    queue = ask_queue(wanted)
    found, remarks = [], [queue.error] if queue.error and wanted else []
    for folder, history in histories.items():
        status, remark = _run_status(folder, history, inferences[folder], queue)
        found.append(status)
        remarks += [remark] if remark else []
    for status in found:
        if status.bad_nodes and status.state != "done" and len(found) > 1:
            remarks.append(f"bad nodes of {status.run}: {', '.join(status.bad_nodes)}")
        if status.state == "new":
            _set_state_from_inner_runs(status, [other for other in found if other.run.startswith(f"{status.run}/")])
    return found, remarks


def _inference(folder: Path) -> InferenceProgress | None:
    options = read_config(folder).get("work")
    seconds = options.get("lease_seconds", 60.0) if isinstance(options, dict) else 60.0
    return inference_progress(folder, seconds) if result(folder) is None else None


def _job_ids(history: list[dict[str, Any]], inference: InferenceProgress | None) -> list[str]:
    """Return the SLURM job ids of a run, newest last.

    Workers started by plain sbatch are not in the history and are found through their claims.
    """
    named = [job for event in history if (job := slurm_id(event)) is not None]
    return list(dict.fromkeys([*named, *sorted(inference.submissions if inference else ())]))


def _run_status(
    folder: Path, history: list[dict[str, Any]], inference: InferenceProgress | None, queue: Queue
) -> tuple[Status, str]:
    config = read_config(folder)
    status = Status(
        run=str(folder),
        kind=stage_of(config),
        state="new",
        detail="nothing has run yet",
        result=result(folder),
        events=history[-5:],
    )
    for event in history:
        if event["event"] in ("preempted", "requeued", "died"):
            setattr(status, event["event"], getattr(status, event["event"]) + 1)
        if event.get("broken_nodes"):
            cause = str(event.get("cause", ""))
            status.bad_nodes |= dict.fromkeys(str(event["broken_nodes"]).split(","), cause)
    identifiers = _job_ids(history, inference)
    jobs = [job for identifier in identifiers for job in queue.jobs.get(identifier, [])]
    status.jobs = [asdict(job) for job in jobs]
    if history:
        last = str(next((event["job"] for event in reversed(history) if event.get("job")), "")) or None
        status.job = last if last is None or last.startswith("local-") else last.partition("_")[0]
    elif identifiers:
        status.job = identifiers[-1]
    remark = _set_state(folder, status, history, jobs, queue, inference)
    _set_progress(folder, config, status, inference)
    cluster = config.get("cluster")
    price = cluster.get("gpu_hour_price") if isinstance(cluster, dict) else None
    status.use = run_figures(folder, price) or None
    status.log = _newest_log(folder, status.job)
    if status.state != "done":
        status.error = _last_error(status, history)
    return status, remark


def _set_state(
    folder: Path,
    status: Status,
    history: list[dict[str, Any]],
    jobs: list[slurm.SlurmJob],
    queue: Queue,
    inference: InferenceProgress | None,
) -> str:
    """Set state, detail, job, nodes and since. Return what could not be determined, or an empty string."""
    remark = ""
    if status.result is not None:
        status.state, status.detail = "done", ""
        return remark
    active = [job for job in jobs if job.is_active]
    if active:
        _set_state_from_jobs(status, history, *_without_later_links(history, active))
        return remark
    held: Holder | None = None
    try:
        held = holder(folder)
    except RunError as error:
        remark = str(error)
    # A job that SLURM has ended is dead, even if its last heartbeat is younger than the lease.
    ended = {job.id.partition("_")[0] for job in jobs}
    if held is not None and held.process is not None and held.process.submission in ended:
        held = None
    processes = (
        [held.process] if held and held.heartbeat_age is not None else list(inference.workers if inference else [])
    )
    known = [process for process in processes if process and process.submission not in ended]
    if known or (processes and None in processes):
        status.state, status.detail = "running", f"{len(known)} workers" if len(known) > 1 else str(*known[:1])
        status.nodes = ",".join(sorted({process.host for process in known})) or None
        status.since = min((process.time for process in known), default=None)
        return remark
    if held is not None:
        status.state, status.detail = (
            "unknown",
            f"{held.process or 'a process'} held it; its heartbeat cannot be checked",
        )
        return f"{folder} is read-only for you: cannot check whether its process is alive"
    last = history[-1] if history else {"event": "none"}
    if last["event"] not in OPEN_EVENTS | {"none"}:
        status.state, status.detail = last["event"], str(last.get("cause", ""))
    else:
        _set_state_from_failures(folder, status, last, jobs, queue, inference)
    return remark


def _without_later_links(
    history: list[dict[str, Any]], active: list[slurm.SlurmJob]
) -> tuple[list[slurm.SlurmJob], str]:
    """Return the active jobs without those that wait for another job of their chain, and the position in the chain."""
    numbers = [submission(history, job.id).get("number", 0) for job in active]
    first = [job for job, number in zip(active, numbers, strict=True) if number == min(numbers)]
    own = submission(history, first[0].id)
    return first, f"job {own['number']} of {own['total']} of a chain" if "chain" in own else ""


def _set_state_from_jobs(
    status: Status, history: list[dict[str, Any]], active: list[slurm.SlurmJob], position: str
) -> None:
    pending = [job for job in active if job.state == "PENDING"]
    running = [job for job in active if job.state != "PENDING"]
    status.job = active[0].id.partition("_")[0]
    status.nodes = ",".join(sorted({job.nodes for job in running if job.nodes})) or None
    reason = pending[0].reason if pending else ""
    if not running:
        status.state, status.detail = "queued", f"{len(pending)} workers, {reason}" if len(pending) > 1 else reason
        status.detail += f"; {position}" if position else ""
        return
    status.state = "running"
    parts = [f"{len(running)} workers"] if len(active) > 1 else []
    parts += [f"{len(pending)} pending ({reason})"] if pending else []
    parts += sorted({job.state.lower() for job in running if job.state != "RUNNING"})
    starts = [event for event in history if event["event"] == "started" and slurm_id(event) == status.job]
    # A training that has not recorded its start is still importing its code.
    if starts and starts[-1].get("restart") == running[0].restarts:
        status.since = starts[-1]["time"]
    elif status.kind in TRAININGS:
        parts.append("starting")
    parts += [position] if position else []
    status.detail = ", ".join(parts)


def _set_state_from_failures(
    folder: Path,
    status: Status,
    last: dict[str, Any],
    jobs: list[slurm.SlurmJob],
    queue: Queue,
    inference: InferenceProgress | None,
) -> None:
    """Set the state of a run without a live process whose history does not record its end."""
    failure = newest_failure(folder) if last["event"] in ("none", "submitted", "link", "started") else None
    if failure is not None and last["event"] != "none" and failure.job.partition("_")[0] != status.job:
        failure = None  # from an earlier job
    outcome = attempt_outcome(folder, Attempt(failure.job, failure.restart)) if failure else None
    own = [job for job in jobs if job.id.partition("_")[0] == status.job]
    ended = next((job for job in own if job.state != "COMPLETED"), None)
    if outcome is not None and outcome.cause:
        status.state, status.detail = "failed", outcome.cause
    elif ended is not None and ended.dependency_failed:
        status.state, status.detail = "cancelled", DEPENDENCY_FAILED
    elif ended is not None and ended.state.startswith("CANCELLED"):
        status.state, status.detail = "cancelled", RESUMES
    elif ended is not None:
        status.state, status.detail = "failed", f"SLURM ended the job: {ended.state}; {RESUMES}"
    elif last["event"] == "preempted":
        status.state, status.detail = "stopped", str(last.get("cause", RESUMES))
    elif queue.error and status.job and not status.job.startswith("local-"):
        event = f"; last event: {last['event']}" if last["event"] != "none" else ""
        status.state, status.detail = "unknown", f"cannot ask SLURM for job {status.job}{event}"
    elif last["event"] != "none" or inference is not None or (folder / "metrics.jsonl").exists():
        status.state, status.detail = "dead", f"{RESUMES} (it has no job or process)"


def _set_state_from_inner_runs(status: Status, inner: list[Status]) -> None:
    """Set the state of a run that consists of other runs, such as the demo."""
    states = [other.state for other in inner]
    for state in ("running", "queued", "failed", "dead", "unknown", "cancelled", "stopped"):
        if state in states:
            other = inner[states.index(state)]
            status.state, status.detail = state, f"in {Path(other.run).name}"
            return
    if states:
        status.state, status.detail = "stopped", f"{states.count('done')} stages done: {RESUMES}"


def _set_progress(folder: Path, config: dict[str, Any], status: Status, inference: InferenceProgress | None) -> None:
    """Set progress, speed and best score."""
    is_running = status.state == "running"
    if inference is not None:
        status.units = {name: getattr(inference, name) for name in ("total", "done", "claimed", "failed")}
        status.failures = inference.failures
        if is_running:
            status.unit, status.per_second = "documents", inference.documents_per_second
            status.seconds_left = inference.seconds_left
    if status.kind not in TRAININGS:
        result = status.result or {}
        f1 = result.get("f1", result.get("final_f1"))  # the demo's
        if f1 is not None:
            status.metric, status.best = "f1", f1
        return
    # The speed is that of the current start, and only of a run that is running.
    progress = training_progress(folder, config, status.since if is_running else None)
    for name, value in vars(progress).items():
        setattr(status, name, value)


def _newest_log(folder: Path, job: str | None) -> str | None:
    if job is None:
        return None
    logs = folder.glob(f"log/{job.removeprefix('local-')}_*log.out")
    rank_0 = [path for path in logs if path.name.endswith("_0_log.out")]
    newest = max(rank_0, key=lambda path: path.stat().st_mtime, default=None)
    return None if newest is None else str(newest)


def _last_error(status: Status, history: list[dict[str, Any]]) -> str | None:
    if status.state == "failed" and status.detail:
        return status.detail
    if status.failures:
        return status.failures[-1]
    causes = [str(event["cause"]) for event in history if event["event"] in ("failed", "died") and event.get("cause")]
    return causes[-1] if causes else None
