"""Show the state of runs once or until Ctrl-C: a page on a terminal, plain text elsewhere, or JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from lmrc.monitor.run_state import find_runs
from lmrc.monitor.status import run_statuses
from lmrc.monitor.status_page import status_page
from lmrc.monitor.status_table import format_details, format_table

NO_RUNS = "no runs in runs/ yet: start one with lmrc demo or launch/rcp.py, or give the folder of a run"


def show(runs: Sequence[Path], as_json: bool = False) -> None:
    """Print the state of these runs, or of all runs.

    Raises:
        RunError: a folder contains no run.
    """
    console = Console()
    if as_json:
        statuses, remarks = run_statuses(find_runs(runs))
        click.echo(json.dumps([status.as_json() for status in statuses], indent=1))
        for remark in remarks:
            click.echo(remark, err=True)
    elif _has_page(console):
        console.print(_page(runs, console.width))
    else:
        click.echo(_text(runs))


def watch_runs(runs: Sequence[Path], seconds: float) -> None:
    """Show the state every `seconds` seconds until Ctrl-C."""
    console = Console()
    try:
        if not _has_page(console):
            while True:
                text = _text(runs)  # before the screen is cleared, so that it is not blank while SLURM answers
                click.clear()
                click.echo(f"{text}\n\n{_footer(seconds)}")
                time.sleep(seconds)
        page = _page(runs, console.width)
        with Live(page, console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(Group(page, Text(f"\n{_footer(seconds)}", "dim")), refresh=True)
                time.sleep(seconds)
                page = _page(runs, console.width)
    except KeyboardInterrupt:
        click.echo()


def _has_page(console: Console) -> bool:
    """Return True if the console is a terminal with cursor and colors."""
    return console.is_terminal and not console.is_dumb_terminal


def _footer(seconds: float) -> str:
    return f"{datetime.now(timezone.utc):%H:%M:%S} UTC, every {seconds:g} s; Ctrl-C ends only this view"


def _page(runs: Sequence[Path], width: int) -> RenderableType:
    statuses, remarks = run_statuses(find_runs(runs))
    return status_page(statuses, remarks, width) if statuses else Text(NO_RUNS)


def _text(runs: Sequence[Path]) -> str:
    statuses, remarks = run_statuses(find_runs(runs))
    if not statuses:
        return "\n".join([*remarks, NO_RUNS])
    return "\n".join([*remarks, format_details(statuses[0]) if len(statuses) == 1 else format_table(statuses)])
