"""The plain text of `lmrc status`: a table of runs, or the details of one run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

from tabulate import tabulate

from lmrc.monitor.status import Status
from lmrc.usage.record import use_text

WIDTH = 120
HEADINGS = ("run", "stage", "state", "progress", "loss", "speed", "left", "best", "note")
MAX_COLUMN_WIDTH = {"run": 32, "best": 22}
# Explanations of SLURM's reasons why a job is pending.
REASONS = {
    "Priority": "jobs of higher priority come first",
    "Resources": "no free nodes yet",
    "BeginTime": "not before its start time; after a requeue SLURM waits about two minutes",
    "Dependency": "an earlier stage has not finished",
    "JobHeldUser": "held; release it with scontrol release",
    "JobHeldAdmin": "held by an administrator",
    "PartitionTimeLimit": "--time is longer than the partition allows",
    "PartitionNodeLimit": "--nodes is more than the partition allows or has now",
    "ReqNodeNotAvail": "the nodes are down or reserved",
    "QOSMaxJobsPerUserLimit": "you have reached the job limit of the QOS",
    "AssocGrpGRES": "the account has reached its GPU limit",
    "JobArrayTaskLimit": "the limit of cluster.max_running is reached",
}


def duration(seconds: float) -> str:
    """Return a duration such as 42 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def moment(time: str) -> str:
    """Return an ISO time in the form 2026-11-22 16:42:33 UTC."""
    return f"{datetime.fromisoformat(time).astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def _times(count: int) -> str:
    return "once" if count == 1 else "twice" if count == 2 else f"{count} times"


def _interruptions(status: Status) -> str:
    """Return text such as preempted twice, died once."""
    counts = (("preempted", status.preempted), ("requeued", status.requeued), ("died", status.died))
    return ", ".join(f"{what} {_times(count)}" for what, count in counts if count)


def _job(status: Status) -> str:
    return f"job {status.job}" if status.job and not status.job.startswith("local-") else ""


def progress_text(status: Status) -> str:
    if status.units is not None:
        failed = f", {status.units['failed']} failed" if status.units["failed"] else ""
        return f"{status.units['done']}/{status.units['total']} units{failed}"
    if status.step is None:
        return ""
    return f"{status.step}" if status.total is None else f"{status.step}/{status.total}"


def speed_text(status: Status) -> str:
    return "" if status.per_second is None else f"{status.per_second:.3g} {status.unit}/s"


def best_text(status: Status) -> str:
    return "" if status.best is None else f"{status.metric} {status.best:.2f}"


def note_text(status: Status) -> str:
    """Return the last column of the table: where the run is running, how it ended, or how long it took."""
    where = " on ".join(part for part in (_job(status), status.nodes or "") if part)
    parts = [where, status.detail] if status.state in ("running", "queued") else [status.detail]
    seconds = (status.result or {}).get("seconds")
    if seconds is not None:
        parts.append(f"took {duration(seconds)}")
    return "; ".join(part for part in (*parts, _interruptions(status)) if part)


def format_table(statuses: Sequence[Status]) -> str:
    """Return one line per run, of at most WIDTH characters. Empty columns are left out."""
    rows: list[tuple[str, ...]] = [HEADINGS]
    for status in statuses:
        loss = "" if status.loss is None or status.state == "done" else f"{status.loss:.3f}"
        left = "" if status.seconds_left is None else duration(status.seconds_left)
        shown = (progress_text(status), loss, speed_text(status), left, best_text(status), one_line(note_text(status)))
        rows.append((status.run, status.kind, status.state, *shown))
    columns = [
        [cut(cell, MAX_COLUMN_WIDTH.get(heading, WIDTH), heading == "run") for cell in column]
        for heading, *cells in zip(*rows, strict=True)
        if any(cells)
        for column in ([heading, *cells],)
    ]
    text = tabulate(zip(*columns, strict=True), tablefmt="plain", disable_numparse=True)
    return "\n".join(cut(line.rstrip(), WIDTH) for line in text.splitlines())


def one_line(text: str) -> str:
    return " ".join(text.split())


def cut(text: str, width: int, keep_end: bool = False) -> str:
    if len(text) <= width:
        return text
    return f"…{text[1 - width :]}" if keep_end else f"{text[: width - 1]}…"


def format_details(status: Status) -> str:
    """Return all details of one run, several lines."""
    lines = [f"{status.run} ({status.kind})"]
    for name, text in detail_rows(status):
        lines += [f"{name if not index else '':<12}{line}" for index, line in enumerate(text.splitlines())]
    return "\n".join(lines)


def detail_rows(status: Status) -> list[tuple[str, str]]:
    """Return the details of a run by name, each of one or more lines; an empty text has nothing to show."""
    state = status.state
    interruptions = _interruptions(status)
    rows = [
        (
            "state",
            f"{state}{f' ({interruptions})' if interruptions else ''}{f': {_detail(status)}' if status.detail else ''}",
        )
    ]
    where = " on ".join(part for part in (_job(status), status.nodes or "") if part)
    if state in ("running", "queued"):
        rows.append(("where", where + (f", since {moment(status.since)}" if status.since else "")))
    progress = [progress_text(status) + ("" if status.epoch is None else f" (epoch {status.epoch + 1})")]
    progress += [] if status.loss is None else [f"loss {status.loss:.4f}"]
    progress += [speed_text(status)] if status.per_second is not None else []
    progress += [] if status.seconds_left is None else [f"{duration(status.seconds_left)} left"]
    rows.append(("units" if status.units else "step", ", ".join(part for part in progress if part)))
    rows.append(("best", best_text(status) + (f" at step {status.best_step}" if status.best_step is not None else "")))
    rows.append(("use", ", ".join(use_text(status.use)) if status.use else ""))
    shown = {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in (status.result or {}).items()
        if name != "use"
    }
    rows.append(("result", json.dumps(shown) if shown else ""))
    rows.append(("failed", "\n".join(status.failures)))
    rows.append(("last error", status.error or "" if status.error != status.detail else ""))
    rows.append(("bad nodes", "\n".join(f"{node}: {one_line(cause)}" for node, cause in status.bad_nodes.items())))
    rows.append(("jobs", "\n".join(_job_lines(status.jobs))))
    rows.append(("events", "\n".join(f"{moment(event['time'])}  {_event(event)}" for event in status.events)))
    rows.append(("logs", status.log or (f"{status.run}/log" if status.events else "")))
    return rows


def _detail(status: Status) -> str:
    # ReqNodeNotAvail is followed by the names of the nodes.
    meaning = REASONS.get(re.split("[,;]", status.detail)[0]) if status.state == "queued" else None
    return f"{status.detail} ({meaning})" if meaning else status.detail


def _job_lines(jobs: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Return one line per job; array tasks in the same state share a line."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for job in jobs:
        groups.setdefault((job["id"].partition("_")[0], job["state"], job["reason"]), []).append(job)
    for (identifier, state, reason), group in groups.items():
        name = group[0]["id"] if len(group) == 1 else f"{identifier}, {len(group)} workers"
        why = f" ({reason})" if reason not in ("", "None") else ""
        nodes = ",".join(sorted({job["nodes"] for job in group if job["nodes"]}))
        restarts = sum(job["restarts"] for job in group)
        yield f"{name}: {state.lower()}{why}{f' on {nodes}' if nodes else ''}" + (
            f", restarted {_times(restarts)}" if restarts else ""
        )


def _event(event: dict[str, Any]) -> str:
    """Return an event of the history as text."""
    job = str(event.get("job") or "")
    name = f"process {job.removeprefix('local-')}" if job.startswith("local-") else f"job {job}"
    cause = one_line(str(event.get("cause") or ""))
    if event["event"] == "submitted":
        return f"submitted as {name}"
    if event["event"] == "started":
        hosts = list(dict.fromkeys(str(event.get("hosts") or "").split(",")))
        again = f", restart {event['restart']}" if event.get("restart") else ""
        return f"started as {name}{again} on {', '.join(hosts)}"
    if event["event"] == "link":
        return f"{name} begins, {event['number']} of {event['total']} of a chain"
    if event["event"] == "requeued":
        return f"{name} handed over to job {event['next']}" if "next" in event else f"{name} requeued"
    step = f" (saved up to step {event['step']})" if event.get("step") is not None else ""
    return f"{event['event']}{f': {cause}' if cause else ''}{step}"
