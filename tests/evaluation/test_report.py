from __future__ import annotations

import random
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lmrc.corpus.docred import read_documents
from lmrc.corpus.relations import DOCRED
from lmrc.errors import UserError
from lmrc.evaluation.figures import learning_curves, relation_bars
from lmrc.evaluation.metrics import score
from lmrc.evaluation.predictions import Prediction
from lmrc.evaluation.report import documents_section, figure_section, table_section, write_report
from lmrc.evaluation.tables import Table, relation_table, remarks, score_table
from tests.evaluation.examples import RELATIONS, document, family

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Collects the tags with their attributes and checks that they nest."""

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


def sections(evil: str = "") -> list[object]:
    made = document(f"Doc {evil}", [[("Ann" + evil, 0)], [("Bob", 0)]], [(0, 1, "P1")])
    predictions = [Prediction(made.title, 0, 1, "P1"), Prediction(f"Other {evil}", 0, 1, evil)]
    scores = score([made], predictions, RELATIONS)
    return [
        table_section(f"Summary {evil}", score_table([(f"LMRC {evil}", scores)]), remarks(scores)),
        table_section("Relations", relation_table(scores, RELATIONS)),
        figure_section("Curves", learning_curves([(f"run {evil}", {"loss": {1: 1.0}})]), f"Loss {evil}"),
        figure_section("Bars", relation_bars(scores, RELATIONS)),
        documents_section("Documents", [made], predictions, RELATIONS),
    ]


def test_the_page_is_whole_and_stands_alone(tmp_path: Path) -> None:
    out = tmp_path / "new" / "index.html"
    assert write_report(out, "Report", *sections()) == out  # type: ignore[arg-type]
    page = Page(out.read_text(encoding="utf-8"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    targets = [a["href"] for tag, a in page.tags if tag == "a"]
    assert targets == [f"#section-{n}" for n in range(1, 6)]
    assert {f"section-{n}" for n in range(1, 6)} <= set(ids)
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "img"}
        for name in ("src", "href", "xlink:href", "action"):
            assert (attributes.get(name) or "#").startswith("#")
    assert len([tag for tag, _ in page.tags if tag == "h1"]) == 1
    assert [p.name for p in out.parent.iterdir()] == ["index.html"]


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_report(tmp_path / "a.html", "Report", *sections())  # type: ignore[arg-type]
    second = write_report(tmp_path / "b.html", "Report", *sections())  # type: ignore[arg-type]
    assert first.read_bytes() == second.read_bytes()


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    evil = "\"'></title></style></details><img src=x onerror=alert(1)><script>alert(1)</script><!-- &lt;"
    harmless = Page(write_report(tmp_path / "a.html", "Report", *sections("x")).read_text())  # type: ignore[arg-type]
    page = Page(write_report(tmp_path / "b.html", f"Report {evil}", *sections(evil)).read_text())  # type: ignore[arg-type]
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in harmless.tags]
    assert [sorted(a) for _, a in page.tags] == [sorted(a) for _, a in harmless.tags]
    # Title, heading, navigation, table, remark, caption, run, document, entity: nothing is swallowed.
    assert "".join(page.words).count("onerror=alert(1)") >= 9


def test_a_failure_on_the_way_leaves_no_page(tmp_path: Path) -> None:
    unlabelled_again = (document for document in [family(), None])
    with pytest.raises(AttributeError):
        write_report(
            tmp_path / "index.html",
            "Report",
            documents_section("Documents", unlabelled_again, [], RELATIONS),  # type: ignore[arg-type]
        )
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_report(tmp_path / "file" / "index.html", "Report", table_section("Summary", Table(("a",), ())))


def test_all_of_redocred_dev_fits_in_ten_megabytes(shared_data: Path, tmp_path: Path) -> None:
    dev = list(read_documents(shared_data / "redocred_dev.json", DOCRED))
    rng = random.Random(66)
    predictions = [
        Prediction(d.title, label.head, label.tail, rng.choice([label.relation, "P17"]))
        for d in dev
        for label in d.labels or ()
    ]
    scores = score(dev, predictions, DOCRED)
    out = write_report(
        tmp_path / "index.html",
        "Re-DocRED dev",
        table_section("Summary", score_table([("half guessed", scores)]), remarks(scores)),
        table_section("Relations", relation_table(scores, DOCRED)),
        figure_section("F1 by relation", relation_bars(scores, DOCRED)),
        documents_section("Documents", dev, predictions, DOCRED),
    )
    assert out.stat().st_size < 10_000_000
    assert out.read_text(encoding="utf-8").count("<summary>") == 500
