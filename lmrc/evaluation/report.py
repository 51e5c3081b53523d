"""One self-contained HTML page: no network, no scripts, light or dark as the reader's system is."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lmrc.corpus.docred import Document
from lmrc.corpus.relations import RelationSet
from lmrc.evaluation.browser import documents_html
from lmrc.evaluation.files import replacing
from lmrc.evaluation.predictions import Prediction
from lmrc.evaluation.tables import Table

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --faint: #5c636b; --page: #fdfdfc; --card: #f3f4f2; --rule: #d5d8d4;
  --link: #0b57a4; --PER: #cfe3f7; --ORG: #fbe0c4; --LOC: #cfeedd; --TIME: #f6edb8; --NUM: #f3d7e8; --MISC: #dcdff5;
  --other: #e2e2e2; --correct: #1d7a4f; --missed: #a35400; --wrong: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6e3; --faint: #a2a9a6; --page: #16181a; --card: #1f2225;
  --rule: #3a3f43; --link: #8ab8f0; --PER: #1f4568; --ORG: #6a431a; --LOC: #1d5540; --TIME: #5a5118; --NUM: #63334f;
  --MISC: #3b3f70; --other: #4a4a4a; --correct: #6fcf9f; --missed: #f0b06a; --wrong: #ff9a90; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1.25rem 4rem; color: var(--ink); background: var(--page);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 0 0 .4rem; }
a { color: var(--link); }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; margin: 0; padding: 0; }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; border-radius: 2px; }
small, .remark, figcaption { color: var(--faint); font-size: .875rem; font-weight: normal; }
.remark { margin: .4rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .9rem .25rem 0; text-align: left; border-bottom: 1px solid var(--rule); }
thead th { color: var(--faint); font-weight: 600; white-space: nowrap; }
tbody th { font-weight: 600; }
th.number, td.number { text-align: right; padding: .25rem 0 .25rem 1.4rem; }
figure { margin: 1rem 0; }
figure svg { max-width: 100%; height: auto; }
details { border: 1px solid var(--rule); border-radius: 6px; margin: .5rem 0; background: var(--card); }
summary { cursor: pointer; padding: .5rem .8rem; font-weight: 600; }
details > :not(summary) { margin: .5rem 1rem 1rem; }
ol.text { padding-left: 2rem; line-height: 1.9; }
ol.text li::marker { color: var(--faint); font-size: .8rem; }
mark { color: inherit; background: var(--other); border-bottom: 2px solid var(--faint); border-radius: 3px;
  padding: 0 .2em; }
mark.PER { background: var(--PER); }
mark.ORG { background: var(--ORG); border-bottom-style: double; border-bottom-width: 3px; }
mark.LOC { background: var(--LOC); border-bottom-style: dashed; }
mark.TIME { background: var(--TIME); border-bottom-style: dotted; }
mark.NUM { background: var(--NUM); border-bottom-style: none; }
mark.MISC { background: var(--MISC); border-bottom-width: 1px; }
sub { font-size: .7em; color: var(--faint); margin-left: .15em; line-height: 0; }
mark sub { color: inherit; }
.triples { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1.25rem; }
.triples ul { margin: 0; padding: 0; list-style: none; }
.triples li { padding: .15rem 0; }
.triples b { font-weight: normal; font-style: italic; }
.triples p { margin: 0; color: var(--faint); }
.triples > div { border-left: 3px solid var(--rule); padding-left: .8rem; min-width: 0; }
.correct b, .correct h3 { color: var(--correct); }
.missed b, .missed h3 { color: var(--missed); }
.wrong b, .wrong h3 { color: var(--wrong); }
@media print { body { max-width: none; } details { break-inside: avoid; } }
"""

# The page may use its own styles and nothing else: even text that slipped through unescaped could load and run nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page. `body` is HTML, made by the functions below, in pieces that are written one by one."""

    heading: str
    body: Iterable[str]


def table_section(heading: str, table: Table, remarks: Iterable[str] = ()) -> Section:
    """A table, and sentences below it."""
    # A table wider than the screen scrolls, with the keyboard too.
    scroller = f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(heading)}">'
    below = "".join(f'<p class="remark">{html.escape(remark)}</p>\n' for remark in remarks)
    return Section(heading, (f"{scroller}{table.html()}</div>\n{below}",))


def figure_section(heading: str, svg: str, caption: str = "") -> Section:
    """A figure of `lmrc.evaluation.figures`. The SVG is trusted; the caption is escaped."""
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return Section(heading, (f"<figure>{svg}{below}</figure>\n",))


def documents_section(
    heading: str, gold: Iterable[Document], predictions: Iterable[Prediction], relations: RelationSet
) -> Section:
    """The documents with their text and triples; gold is read when the page is written."""
    return Section(heading, documents_html(gold, predictions, relations))


def write_report(out: Path, title: str, *sections: Section) -> Path:
    """Write the page to the file `out`, whole or not at all, and return it. Missing parent folders are made.

    Without time stamps: the same input gives the same bytes.
    """
    with replacing(out) as file:
        file.write(
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
            f'<header><h1>{html.escape(title)}</h1>\n<nav aria-label="Sections"><ul>\n'
        )
        for number, section in enumerate(sections, 1):
            file.write(f'<li><a href="#section-{number}">{html.escape(section.heading)}</a></li>\n')
        file.write("</ul></nav></header>\n<main>\n")
        for number, section in enumerate(sections, 1):
            file.write(f'<section id="section-{number}">\n<h2>{html.escape(section.heading)}</h2>\n')
            file.writelines(section.body)
            file.write("</section>\n")
        file.write("</main>\n</body>\n</html>\n")
    return out
