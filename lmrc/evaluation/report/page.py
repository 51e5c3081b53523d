"""The self-contained HTML page of a report. It needs no network, and follows the system's light or dark theme."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from lmrc.common.json_stream import replacing
from lmrc.evaluation.paper_scores import ABSENT
from lmrc.evaluation.report.artifacts import ReportItem
from lmrc.evaluation.tables.table import Table

# Inches. A higher figure is folded.
TALL_FIGURE = 8

# Inches. A wider figure keeps its width on a narrow screen and scrolls.
WIDE_FIGURE = 6

# Columns and inches. Tables with more columns and wider figures take the width of the page, others half of it.
BROAD_TABLE, BROAD_FIGURE = 7, 7.5

# Scripts of the page, in the order in which they run.
SCRIPTS = ("report.js", "tables.js")

TEMPLATES = Environment(
    loader=PackageLoader("lmrc.evaluation.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the page. `name` is its anchor; the HTML of `body` is written piece by piece."""

    name: str
    heading: str
    body: Iterable[str]


def report_items_html(items: Iterable[ReportItem]) -> Iterator[str]:
    """Yield the HTML of each table or figure with its notes. All texts but the SVG of figures are escaped."""
    template = TEMPLATES.get_template("item.html")
    yield '<div class="items">\n'
    for item in items:
        if not item.in_page:
            continue
        if isinstance(item.content, Table):
            columns, shares = len(item.content.header), _shares(item.content) if item.sortable else {}
            layout = {"is_table": True, "wide": False, "broad": columns > BROAD_TABLE, "folded": item.folded}
        else:
            width, height = item.content.figure.get_size_inches()
            layout = {"is_table": False, "wide": width > WIDE_FIGURE, "broad": width > BROAD_FIGURE}
            layout["folded"], shares = height > TALL_FIGURE, {}
        yield template.render(item=item, shares=shares, **layout)
    yield "</div>\n"


def _shares(table: Table) -> dict[tuple[int, str], str]:
    """Return the length of the bar, in percent, of each cell with an F1, by column and text."""
    columns = [index for index, name in enumerate(table.header) if index >= table.labels and name.startswith("F1")]
    cells = {(column, row[column]) for row in table.rows if not table.is_heading(row) for column in columns}
    return {(column, text): text for column, text in sorted(cells) if text != ABSENT}


def write_report(out: Path, title: str, *sections: Section, subtitle: str = "") -> Path:
    """Write the page to the file `out` atomically and return its path. `subtitle` is the line below the title.

    The page has no time stamps: the same input gives the same bytes.
    """
    assets = files("lmrc.evaluation.report").joinpath("assets")
    style, *scripts = (assets.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", *SCRIPTS))
    script = "\n".join(scripts)
    # Only this script may run, and nothing may be loaded. This holds even if some text was not escaped.
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{script_hash}'; base-uri 'none'"
    page = TEMPLATES.get_template("page.html")
    with replacing(out) as file:
        file.writelines(
            page.generate(title=title, subtitle=subtitle, policy=policy, style=style, script=script, sections=sections)
        )
    return out
