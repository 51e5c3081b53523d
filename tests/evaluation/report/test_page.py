from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lmrc.common.errors import UserError
from lmrc.corpus.predictions import Prediction
from lmrc.corpus.types import Document
from lmrc.evaluation.metrics.scores import score
from lmrc.evaluation.plots.figures import learning_curves
from lmrc.evaluation.report.artifacts import ReportItem, error_items, figure_items, paper_items, summary_items
from lmrc.evaluation.report.document_browser import documents_html
from lmrc.evaluation.report.page import Section, report_items_html, write_report
from lmrc.evaluation.scored_run import ScoredRun
from lmrc.evaluation.tables.table import Table
from tests.evaluation.examples import RELATIONS, document

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Parser that collects tags with their attributes and checks that they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def sections(evil: str = "") -> list[Section]:
    made = document(f"Doc {evil}", [[("Ann" + evil, 0)], [("Bob", 0)]], [(0, 1, "P1")])
    predictions = [Prediction(made.title, 0, 1, "P1"), Prediction(f"Other {evil}", 0, 1, f"P{evil}")]
    documents: list[Document] = [made]
    run = ScoredRun(f"run {evil}", documents, RELATIONS, predictions, score(documents, predictions, RELATIONS), "own")
    curves = ReportItem("curves", f"Curves {evil}", learning_curves([(f"run {evil}", {"loss": {1: 1.0}})]), (evil,))
    return [
        Section("summary", f"Summary {evil}", report_items_html(summary_items([run]))),
        Section("tables", "Tables", report_items_html(paper_items([run]))),
        Section("figures", "Figures", report_items_html([curves, *figure_items([run], {})])),
        Section("errors", "Errors", report_items_html(error_items([run]))),
        Section("documents", "Documents", documents_html([run])),
    ]


def test_page_is_self_contained(tmp_path: Path) -> None:
    out = tmp_path / "new" / "index.html"
    assert write_report(out, "Report", *sections()) == out
    page = Page(out.read_text(encoding="utf-8"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    targets = [a["href"] for tag, a in page.tags if tag == "a"]
    assert targets == ["#summary", "#tables", "#figures", "#errors", "#documents"]
    assert {"summary", "tables", "figures", "errors", "documents"} <= set(ids)
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "img"}
        for name in ("src", "href", "xlink:href", "action"):
            assert (attributes.get(name) or "#").startswith("#")
    assert len([tag for tag, _ in page.tags if tag == "h1"]) == 1
    assert [p.name for p in out.parent.iterdir()] == ["index.html"]


def test_content_security_policy(tmp_path: Path) -> None:
    page = write_report(tmp_path / "a.html", "Report", *sections()).read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    known = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{known}'; base-uri 'none'"


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_report(tmp_path / "a.html", "Report", *sections())
    second = write_report(tmp_path / "b.html", "Report", *sections())
    assert first.read_bytes() == second.read_bytes()


def test_text_is_escaped(tmp_path: Path) -> None:
    evil = "\"'></title></style></script></details><img src=x onerror=alert(1)><script>alert(1)</script><!-- &lt;"
    harmless = Page(write_report(tmp_path / "a.html", "Report", *sections("x")).read_text())
    page = Page(write_report(tmp_path / "b.html", f"Report {evil}", *sections(evil)).read_text())
    plain = [(tag, sorted(attributes)) for tag, attributes in page.tags if tag not in ("use", "path", "g", "tspan")]
    assert plain == [(t, sorted(a)) for t, a in harmless.tags if t not in ("use", "path", "g", "tspan")]
    # Text of title, heading, navigation, tables, notes, captions, curves, remarks and data is all there.
    assert "".join(page.words).count("onerror=alert(1)") >= 15


def test_tables_are_folded_unless_they_say_otherwise() -> None:
    table = Table(("n", "m"), (("1", "1"),))
    folded, open_ = (
        "".join(report_items_html([ReportItem("x", "Numbers", table, folded=value)])) for value in (True, False)
    )
    assert "<details><summary><h3>Numbers</h3></summary>" in folded
    assert "<details>" not in open_ and "<h3>Numbers</h3>" in open_


def test_tables_with_many_columns_and_wide_figures_take_the_width_of_the_page() -> None:
    few, many = (
        "".join(report_items_html([ReportItem("x", "Numbers", Table(("n",) * count, (("1",) * count,)))]))
        for count in (7, 8)
    )
    assert 'class="item"' in few and 'class="item broad"' in many


def test_items_outside_the_page_are_left_out() -> None:
    items = [ReportItem(name, name, Table(("n",), (("1",),)), in_page=name == "shown") for name in ("shown", "hidden")]
    page = "".join(report_items_html(items))
    assert "shown" in page and "hidden" not in page


def test_f1_of_a_sortable_table_has_a_bar() -> None:
    rows = (("P1", "country", "50.00", "25.00", "7"), ("P2", "born in", "-", "-", "0"))
    table = Table(("Relation", "Name", "F1 <a>", "P", "Gold"), rows, labels=2)
    sortable, plain = (
        "".join(report_items_html([ReportItem("x", "Relations", table, sortable=value)])) for value in (True, False)
    )
    assert re.findall(r"--share:([^\"]*)", sortable) == ["50.00"]
    assert '<td class="number share" style="--share:50.00">50.00</td>' in sortable
    assert '<td class="number">-</td>' in sortable and '<table class="sortable">' in sortable
    assert "--share" not in plain and "sortable" not in plain


def test_failed_write_leaves_no_page(tmp_path: Path) -> None:
    broken = (1 / 0 and "" for _ in range(1))
    with pytest.raises(ZeroDivisionError):
        write_report(tmp_path / "index.html", "Report", Section("x", "X", broken))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_report(tmp_path / "file" / "index.html", "Report", Section("x", "X", ()))
