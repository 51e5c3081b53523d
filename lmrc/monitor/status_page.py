"""The page of `lmrc status` on a terminal: colors and bars, by rich."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lmrc.monitor.status import Status
from lmrc.monitor.status_table import (
    best_text,
    cut,
    detail_rows,
    duration,
    note_text,
    one_line,
    progress_text,
    speed_text,
)

STYLES = {
    "running": "cyan",
    "queued": "yellow",
    "done": "green",
    "failed": "bold red",
    "dead": "bold red",
    "cancelled": "magenta",
    "stopped": "yellow",
    "unknown": "magenta",
    "new": "dim",
}
BAR_WIDTH = 14
RUN_WIDTH, MIN_RUN_WIDTH = 44, 16
NOTE_WIDTH, MIN_NOTE_WIDTH = 24, 8
NOTE = "note"
# Spaces after each column.
GAP = 2
# Measures cells, and prints nothing.
_WIDE = Console(width=1000)


def status_page(statuses: Sequence[Status], remarks: Sequence[str], width: int) -> RenderableType:
    """Return the page: the details of a single run, or counts, pipelines and a table of several.

    Args:
        width: columns of the terminal.
    """
    lines: list[RenderableType] = [Text(remark, "yellow") for remark in remarks]
    if len(statuses) == 1:
        return Group(*lines, _details(statuses[0]))
    counts = Counter(status.state for status in statuses)
    shown = [Text(f"{counts[state]} {state}", style) for state, style in STYLES.items() if counts[state]]
    lines.append(Text(" · ").join(shown))
    homes = pipelines(statuses)
    if homes:
        lines.append(Padding(_pipeline_bars(homes), (1, 0)))
    return Group(*lines, _runs(statuses, width))


def pipelines(statuses: Sequence[Status]) -> dict[Path, list[Status]]:
    """Return the steps of each pipeline by its folder: those beside a score step, without summaries."""
    homes: dict[Path, list[Status]] = {Path(status.run).parent: [] for status in statuses if status.kind == "score"}
    for status in statuses:
        if Path(status.run).parent in homes:
            homes[Path(status.run).parent].append(status)
    return dict(sorted(homes.items()))


def _pipeline_bars(homes: dict[Path, list[Status]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for home, steps in homes.items():
        done = sum(status.state == "done" for status in steps)
        states = [status.state for status in steps]
        state = next((state for state in ("failed", "dead", "running", "queued") if state in states), "done")
        scores = [best_text(status) for status in steps if status.kind == "score"]
        table.add_row(
            Text(cut(str(home), RUN_WIDTH, keep_end=True)),
            _bar(done, len(steps), STYLES[state]),
            Text(f"{done}/{len(steps)} steps"),
            Text(state, STYLES[state]),
            Text(", ".join(filter(None, scores)), "bold"),
        )
    return table


def _runs(statuses: Sequence[Status], width: int) -> Table:
    """Return one row per run. Columns without any content are left out.

    On a narrow terminal the names of the runs lose their beginning and the notes their end, and nothing else.
    """
    rows: list[dict[str, RenderableType]] = []
    for status in statuses:
        style = STYLES.get(status.state, "")
        left = "" if status.seconds_left is None else duration(status.seconds_left)
        loss = "" if status.loss is None or status.state == "done" else f"{status.loss:.3f}"
        rows.append(
            {
                "run": Text(status.run),
                "stage": Text(status.kind),
                "state": Text(status.state, style),
                "progress": _progress(status),
                "loss": Text(loss),
                "speed": Text(speed_text(status)),
                "left": Text(left),
                "best": Text(best_text(status), "bold"),
                NOTE: Text(one_line(note_text(status))),
            }
        )
    table = Table(box=None, padding=(0, GAP, 0, 0), header_style="bold")
    names = [name for name in rows[0] if any(not isinstance(row[name], Text) or row[name] for row in rows)]
    widths = {name: max(len(name), *(_width(row[name]) for row in rows)) for name in names}
    fixed = sum(size + GAP for name, size in widths.items() if name not in ("run", NOTE))
    wanted = min(widths.get(NOTE, 0), NOTE_WIDTH)
    widths["run"] = min(widths["run"], RUN_WIDTH, max(MIN_RUN_WIDTH, width - fixed - GAP - wanted))
    left_for_notes = width - fixed - widths["run"] - GAP
    if left_for_notes < MIN_NOTE_WIDTH:
        names = [name for name in names if name != NOTE]
    for name in names:
        table.add_column(name, no_wrap=True)
    for status, row in zip(statuses, rows, strict=True):
        short = {
            "run": Text(cut(status.run, widths["run"], keep_end=True)),
            NOTE: Text(cut(one_line(note_text(status)), left_for_notes), _note_style(status)),
        }
        table.add_row(*((row | short)[name] for name in names))
    return table


def _note_style(status: Status) -> str:
    return "red" if status.state in ("failed", "dead") else "dim"


def _width(cell: RenderableType) -> int:
    """Return the width of a cell, which is a text or a bar with a text beside it."""
    return cell.cell_len if isinstance(cell, Text) else _WIDE.measure(cell).maximum


def _progress(status: Status) -> RenderableType:
    """Return a bar with the steps or units done; only the numbers if their total is not known."""
    done, total = _share(status)
    text = progress_text(status)
    return _beside(_bar(done, total, STYLES.get(status.state, "")), text) if total else Text(text)


def _beside(bar: ProgressBar, text: str) -> Table:
    row = Table.grid(padding=(0, 1))
    row.add_row(bar, Text(text))
    return row


def _share(status: Status) -> tuple[int, int]:
    """Return the steps or units that are done, and all of them; 0 for unknown numbers."""
    if status.units is not None:
        return status.units["done"], status.units["total"]
    return status.step or 0, status.total or 0


def _bar(done: int, total: int, style: str) -> ProgressBar:
    return ProgressBar(
        total=total, completed=done, width=BAR_WIDTH, complete_style=style or "cyan", finished_style=style or "green"
    )


def _details(status: Status) -> RenderableType:
    """Return all details of one run."""
    style = STYLES.get(status.state, "")
    title = Text.assemble((status.run, "bold"), f" ({status.kind})")
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    done, total = _share(status)
    for name, text in detail_rows(status):
        if name == "state":
            table.add_row(name, Text(text, style))
        elif name in ("step", "units") and total:
            table.add_row(name, _beside(_bar(done, total, style), text))
        elif name == "result" and status.result:
            table.add_row(name, _result({key: value for key, value in status.result.items() if key != "use"}))
        elif text:
            table.add_row(name, Text(text, "red" if name in ("failed", "last error") else ""))
    return Group(title, table)


def _result(result: dict[str, object]) -> Table:
    """Return the content of DONE, with numbers of four digits."""
    table = Table.grid(padding=(0, 2))
    for name, value in result.items():
        if isinstance(value, float):
            table.add_row(Text(name), Text(f"{value:.4g}"))
        else:
            table.add_row(Text(name), Text(value if isinstance(value, str) else json.dumps(value)))
    return table
