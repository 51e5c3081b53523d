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
from lmrc.evaluation.report.artifacts import ReportItem
from lmrc.evaluation.tables.table import Table

# A table with more rows, or a figure with more inches in height, is folded.
LONG_TABLE, TALL_FIGURE = 40, 12

# Inches. A wider figure keeps its width on a narrow screen and scrolls.
WIDE_FIGURE = 6

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
    for item in items:
        is_table = isinstance(item.content, Table)
        if isinstance(item.content, Table):
            wide, folded = False, len(item.content.rows) > LONG_TABLE
        else:
            width, height = item.content.figure.get_size_inches()
            wide, folded = width > WIDE_FIGURE, height > TALL_FIGURE
        yield template.render(item=item, is_table=is_table, wide=wide, folded=folded)


def write_report(out: Path, title: str, *sections: Section) -> Path:
    """Write the page to the file `out` atomically and return its path.

    The page has no time stamps: the same input gives the same bytes.
    """
    assets = files("lmrc.evaluation.report").joinpath("assets")
    style, script = (assets.joinpath(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    # Only this script may run, and nothing may be loaded. This holds even if some text was not escaped.
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{script_hash}'; base-uri 'none'"
    page = TEMPLATES.get_template("page.html")
    with replacing(out) as file:
        file.writelines(page.generate(title=title, policy=policy, style=style, script=script, sections=sections))
    return out
