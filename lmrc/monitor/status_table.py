"""The state of runs as text: a line each, or all about one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from lmrc.monitor.run_state import find
from lmrc.monitor.status import Status, statuses

WIDTH = 120
HEADINGS = ("run", "stage", "state", "progress", "loss", "speed", "left", "best", "")
LONGEST = {"run": 32, "best": 22}
# SLURM's own words for why a job waits, as far as a user can do something about them or wonders.
REASONS = {
    "Priority": "jobs of higher priority come first",
    "Resources": "no free nodes yet",
    "BeginTime": "its time has not come: after a requeue SLURM waits about two minutes",
    "Dependency": "an earlier stage has not finished",
    "JobHeldUser": "held: scontrol release lets it go",
    "JobHeldAdmin": "held by an administrator",
    "PartitionTimeLimit": "--time is longer than the partition allows",
    "PartitionNodeLimit": "--nodes is more than the partition allows or has now",
    "ReqNodeNotAvail": "the nodes are down or reserved",
    "QOSMaxJobsPerUserLimit": "you have as many jobs as the QOS allows",
    "AssocGrpGRES": "the account uses as many GPUs as it may",
    "JobArrayTaskLimit": "as many workers run as cluster.max_running allows",
}


def duration(seconds: float) -> str:
    """42 s, 12 min, 3 h 20 min, 2 d 4 h."""
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
    """An ISO time as 2026-11-22 16:42:33 UTC."""
    return f"{datetime.fromisoformat(time).astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def _times(count: int) -> str:
    return "once" if count == 1 else "twice" if count == 2 else f"{count} times"


def _came_back(status: Status) -> str:
    """ "preempted twice, died once"."""
    counts = (("preempted", status.preempted), ("requeued", status.requeued), ("died", status.died))
    return ", ".join(f"{what} {_times(count)}" for what, count in counts if count)


def _job(status: Status) -> str:
    return f"job {status.job}" if status.job and not status.job.startswith("local-") else ""


def _progress(status: Status) -> str:
    if status.units is not None:
        failed = f", {status.units['failed']} failed" if status.units["failed"] else ""
        return f"{status.units['done']}/{status.units['total']} parts{failed}"
    if status.step is None:
        return ""
    return f"{status.step}" if status.total is None else f"{status.step}/{status.total}"


def _speed(status: Status) -> str:
    return "" if status.per_second is None else f"{status.per_second:.3g} {status.unit}/s"


def _best(status: Status) -> str:
    return "" if status.best is None else f"{status.metric} {status.best:.2f}"


def _note(status: Status) -> str:
    """What stands at the end of a run's line: where it runs, or what to know of how it ended."""
    where = " on ".join(part for part in (_job(status), status.nodes or "") if part)
    said = [where, status.detail] if status.state in ("running", "queued") else [status.detail]
    return "; ".join(part for part in (*said, _came_back(status)) if part)


def table(statuses: Sequence[Status]) -> str:
    """One line each, of at most WIDTH characters; columns that are empty throughout are left out."""
    rows: list[tuple[str, ...]] = [HEADINGS]
    for one in statuses:
        loss = "" if one.loss is None or one.state == "done" else f"{one.loss:.3f}"
        left = "" if one.seconds_left is None else duration(one.seconds_left)
        rows.append(
            (one.run, one.kind, one.state, _progress(one), loss, _speed(one), left, _best(one), _line(_note(one)))
        )
    columns = [
        [_cut(cell, LONGEST.get(heading, WIDTH), heading == "run") for cell in column]
        for heading, *cells in zip(*rows, strict=True)
        if any(cells)
        for column in ([heading, *cells],)
    ]
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for cells in zip(*columns, strict=True):
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True))
        lines.append(_cut(line.rstrip(), WIDTH))
    return "\n".join(lines)


def _line(text: str) -> str:
    return " ".join(text.split())


def _cut(text: str, longest: int, keep_end: bool = False) -> str:
    if len(text) <= longest:
        return text
    return f"…{text[1 - longest :]}" if keep_end else f"{text[: longest - 1]}…"


def form(status: Status) -> str:
    """All about one run."""
    state = status.state
    came_back = _came_back(status)
    rows = [
        ("state", f"{state}{f' ({came_back})' if came_back else ''}{f': {_detail(status)}' if status.detail else ''}")
    ]
    where = " on ".join(part for part in (_job(status), status.nodes or "") if part)
    if state in ("running", "queued"):
        rows.append(("where", where + (f", since {moment(status.since)}" if status.since else "")))
    progress = [_progress(status) + ("" if status.epoch is None else f" (epoch {status.epoch + 1})")]
    progress += [] if status.loss is None else [f"loss {status.loss:.4f}"]
    progress += [_speed(status)] if status.per_second is not None else []
    progress += [] if status.seconds_left is None else [f"{duration(status.seconds_left)} left"]
    rows.append(("parts" if status.units else "step", ", ".join(part for part in progress if part)))
    rows.append(("best", _best(status) + (f" at step {status.best_step}" if status.best_step is not None else "")))
    rows.append(("result", json.dumps(status.result) if status.result else ""))
    rows.append(("failed", "\n".join(status.failures)))
    rows.append(("last error", status.error or "" if status.error != status.detail else ""))
    rows.append(("jobs", "\n".join(_job_lines(status.jobs))))
    rows.append(("events", "\n".join(f"{moment(event['time'])}  {_event(event)}" for event in status.events)))
    rows.append(("logs", status.log or (f"{status.run}/log" if status.events else "")))
    lines = [f"{status.run} ({status.kind})"]
    for name, text in rows:
        lines += [f"{name if not number else '':<12}{line}" for number, line in enumerate(text.splitlines())]
    return "\n".join(lines)


def _detail(status: Status) -> str:
    # SLURM gives ReqNodeNotAvail together with the nodes.
    meaning = REASONS.get(status.detail.partition(",")[0]) if status.state == "queued" else None
    return f"{status.detail} ({meaning})" if meaning else status.detail


def _job_lines(jobs: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line a job; of an array one for all tasks that are in the same state."""
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for job in jobs:
        alike.setdefault((job["id"].partition("_")[0], job["state"], job["reason"]), []).append(job)
    for (identifier, state, reason), group in alike.items():
        name = group[0]["id"] if len(group) == 1 else f"{identifier}, {len(group)} workers"
        why = f" ({reason})" if reason not in ("", "None") else ""
        nodes = ",".join(sorted({job["nodes"] for job in group if job["nodes"]}))
        restarts = sum(job["restarts"] for job in group)
        yield f"{name}: {state.lower()}{why}{f' on {nodes}' if nodes else ''}" + (
            f", restarted {_times(restarts)}" if restarts else ""
        )


def _event(event: dict[str, Any]) -> str:
    """A line of the history in words."""
    job = str(event.get("job") or "")
    name = f"process {job.removeprefix('local-')}" if job.startswith("local-") else f"job {job}"
    cause = _line(str(event.get("cause") or ""))
    if event["event"] == "submitted":
        return f"submitted as {name}"
    if event["event"] == "started":
        hosts = list(dict.fromkeys(str(event.get("hosts") or "").split(",")))
        again = f", restart {event['restart']}" if event.get("restart") else ""
        return f"started as {name}{again} on {', '.join(hosts)}"
    if event["event"] == "requeued":
        return f"{name} put back into the queue"
    step = f" (saved up to step {event['step']})" if event.get("step") is not None else ""
    return f"{event['event']}{f': {cause}' if cause else ''}{step}"


def show(runs: Sequence[Path], as_json: bool = False, clear: bool = False) -> None:
    """Print the state of these runs, or of all. Raises RunError where one of them is none."""
    folders = find(runs)
    found, remarks = statuses(folders)
    if clear:
        click.clear()  # only now, that nothing is blank while SLURM thinks
    if as_json:
        click.echo(json.dumps([one.as_json() for one in found], indent=1))
        for remark in remarks:
            click.echo(remark, err=True)
        return
    for remark in remarks:
        click.echo(remark)
    if not found:
        click.echo("no runs in runs/ yet: start one with lmrc demo or launch/rcp.py, or name its folder")
    else:
        click.echo(form(found[0]) if len(found) == 1 else table(found))


def watch_runs(runs: Sequence[Path], seconds: float) -> None:
    """Show it every `seconds` until Ctrl-C."""
    try:
        while True:
            show(runs, clear=True)
            click.echo(f"\n{datetime.now(timezone.utc):%H:%M:%S} UTC, every {seconds:g} s; Ctrl-C ends this view only")
            time.sleep(seconds)
    except KeyboardInterrupt:
        click.echo()
