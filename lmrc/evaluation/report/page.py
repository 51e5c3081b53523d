"""One self-contained HTML page: no network, light or dark as the reader's system is, or as its button says."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from lmrc.common.json_stream import replacing
from lmrc.evaluation.report.artifacts import ReportItem
from lmrc.evaluation.tables.table import Table

LONG, TALL = 40, 12
"""A table of more rows, or a figure of more inches, is folded away until it is asked for."""

WIDE = 6
"""A figure of more inches keeps its width on a narrow screen, and scrolls."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page. `body` is HTML, made by the functions below, in pieces that are written one by one."""

    name: str
    """The part of the address after #."""
    heading: str
    body: Iterable[str]


def report_items_html(exhibits: Iterable[ReportItem]) -> Iterable[str]:
    """Tables and figures with their notes. The SVG of figures is trusted; all else is escaped."""
    for exhibit in exhibits:
        title, content = f"<h3>{html.escape(exhibit.title)}</h3>", exhibit.content
        notes = "".join(f'<p class="remark">{html.escape(note)}</p>\n' for note in exhibit.notes)
        if isinstance(content, Table):
            wide, folded, shown = "", len(content.rows) > LONG, content.html()
        else:
            width, height = content.figure.get_size_inches()
            wide, folded, shown = " wide" if width > WIDE else "", height > TALL, content.svg
        # What is wider than the screen scrolls, with the keyboard too.
        scroller = f'<div class="scroll{wide}" tabindex="0" role="region" aria-label="{html.escape(exhibit.title)}">'
        body = f"{scroller}{shown}</div>\n{notes}"
        if not isinstance(content, Table):
            body = f"<figure>{body}</figure>\n"
        yield f"<details><summary>{title}</summary>\n{body}</details>\n" if folded else f"{title}\n{body}"


def write_report(out: Path, title: str, *sections: Section) -> Path:
    """Write the page to the file `out`, whole or not at all, and return it. Missing parent folders are made.

    Without time stamps: the same input gives the same bytes.
    """
    style, script = (_asset(name) for name in ("report.css", "report.js"))
    # The page may use its own styles and this very script, nothing else: even text that slipped through unescaped
    # could load and run nothing.
    known = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{known}'; base-uri 'none'"
    with replacing(out) as file:
        file.write(
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{html.escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
            f"<header><h1>{html.escape(title)}</h1>\n"
            '<button type="button" id="theme" hidden>Theme: system</button>\n<nav aria-label="Sections"><ul>\n'
        )
        for section in sections:
            file.write(f'<li><a href="#{section.name}">{html.escape(section.heading)}</a></li>\n')
        file.write("</ul></nav></header>\n<main>\n")
        for section in sections:
            file.write(f'<section id="{section.name}">\n<h2>{html.escape(section.heading)}</h2>\n')
            file.writelines(section.body)
            file.write("</section>\n")
        file.write(f"</main>\n<script>{script}</script>\n</body>\n</html>\n")
    return out


def _asset(name: str) -> str:
    return files("lmrc.evaluation.report").joinpath("assets").joinpath(name).read_text(encoding="utf-8")
