"""The page of an extraction: its data, and in a headless Chromium."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote_plus

import pytest

from lmrc.evaluation.report.document_browser import MAX_DOCUMENTS
from lmrc.export.page import document_data, page_writer
from lmrc.export.result import ExtractedDocument
from tests.evaluation.report.chromium import Chromium, needs_chromium
from tests.export.examples import result


def write(path: Path, *results: ExtractedDocument) -> Path:
    with page_writer(path, "Triples of <b>notes</b>") as page:
        for found in results:
            page.write(found)
    return path


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    less = result("two", (0, 1, "P19", 0.3), (2, 0, "P19", 0.2))
    return write(
        tmp_path_factory.mktemp("page") / "page.html", result("one"), less, result("three", (0, 2, "works for", 0.9))
    )


def test_words_end_at_mentions_and_keep_the_spaces_of_the_text() -> None:
    data = document_data(result())
    assert data["sentences"] == [
        ["A", '"x"', "<&>", ",", "was", "born", "in", "C\\D", ";", "the", "Bo", "."],
        ["Then", "A", "left", "."],
    ]
    assert data["glued"] == [[3, 8, 11], [3]]
    assert data["entities"] == [
        ['A "x" <&>', "PER", [0, 0, 3, 1, 1, 3]],
        ["C\\D", "LOC", [0, 7, 8]],
        ["Bo", "", [0, 10, 11]],
    ]
    assert data["evidence"] == {"0 1 P19": (0,), "0 2 works for": (0,)}


def test_mentions_that_overlap_or_touch() -> None:
    found = result()
    spans = ((0, 9), (0, 1), (2, 5), (9, 10))
    entities = tuple(replace(found.entities[0], spans=(span,)) for span in spans)
    data = document_data(replace(found, entities=entities, triples=()))
    words = data["sentences"][0]
    assert [words[first:end] for _, _, (_, first, end) in data["entities"]] == [
        ["A", '"x"', "<&>"],
        ["A"],
        ['"x"'],
        [","],
    ]


def test_documents_beyond_the_limit_are_counted(tmp_path: Path) -> None:
    small = replace(result(), text="", sentences=(), entities=(), triples=())
    content = write(tmp_path / "a.html", *[small] * (MAX_DOCUMENTS + 3)).read_text()
    assert f"The first {MAX_DOCUMENTS:,} of {MAX_DOCUMENTS + 3:,} documents are shown here." in content
    data = json.loads(re.findall(r'id="documents-data">(.*)</script>', content)[0])
    assert len(data["corpora"][0]) == MAX_DOCUMENTS


def shown(chromium: Chromium) -> list[str]:
    """Return the triples of the document that is shown, as text without the indices of entities."""
    found: list[str] = chromium.run(
        """[...document.querySelectorAll(".triples li button")].map((b) =>
        [...b.childNodes].filter((n) => n.nodeName !== "SUB").map((n) => n.textContent).join("|"))"""
    )
    return found


def titles(chromium: Chromium) -> list[str]:
    found: list[str] = chromium.run('[...document.querySelectorAll("#titles button")].map((b) => b.firstChild.data)')
    return found


def choose(chromium: Chromium, name: str, value: str) -> None:
    chromium.run(
        f"""{{ const field = document.getElementById("filters").elements["{name}"]; field.value = "{value}";
        field.dispatchEvent(new Event("input", {{ bubbles: true }})); }}"""
    )


@needs_chromium
def test_text_entities_and_triples(chromium: Chromium, page: Path) -> None:
    chromium.look(1280, 900)
    chromium.open(page)
    assert chromium.messages == []
    assert chromium.requests == [page.resolve().as_uri()]  # no network
    assert chromium.run("document.querySelector('h1').textContent") == "Triples of <b>notes</b>"
    lines = chromium.run('[...document.querySelectorAll("ol.text li")].map((line) => line.innerText)')
    assert lines == ['A "x" <&>0, was born in C\\D1; the Bo2.', "Then A left0."]
    marks = chromium.run('[...document.querySelectorAll("ol.text mark")].map((m) => m.className)')
    assert marks == ["PER", "LOC", "other", "PER"]
    assert shown(chromium) == ['A "x" <&>| |place of birth| |C\\D|0.750', 'A "x" <&>| |works "for", <x> & y| |Bo|0.500']
    assert "F1" not in chromium.run("document.body.innerText")
    hidden = chromium.run('document.getElementById("filters").elements["kind"].closest("label").offsetParent === null')
    assert hidden
    assert chromium.run('document.querySelectorAll(".triples h4").length') == 1


@needs_chromium
def test_filters_by_score_and_relation(chromium: Chromium, page: Path) -> None:
    chromium.open(page)
    assert titles(chromium) == ["one", "two", "three"]
    status = 'document.getElementById("found").textContent'
    assert chromium.run(status) == "3 of 3 documents, 5 triples"
    choose(chromium, "score", "0.5")
    assert titles(chromium) == ["one", "three"]
    assert chromium.run(status) == "2 of 3 documents, 3 triples"
    assert len(shown(chromium)) == 2
    options = chromium.run('[...document.querySelector("[name=relation]").options].map((o) => o.textContent)')
    assert options == ["all (3)", 'works "for", <x> & y works for (2)', "place of birth P19 (1)"]
    assert chromium.run('document.querySelector("#filters output").textContent') == "0.50"
    choose(chromium, "relation", "P19")
    assert titles(chromium) == ["one"] and len(shown(chromium)) == 1
    address = unquote_plus(chromium.run("location.hash"))
    assert address == "#relation=P19&score=0.5&document=one"
    chromium.open(page, address)
    assert titles(chromium) == ["one"] and len(shown(chromium)) == 1
    choose(chromium, "score", "0.76")
    assert titles(chromium) == []


@needs_chromium
def test_keyboard(chromium: Chromium, page: Path) -> None:
    chromium.look(1280, 900)
    chromium.open(page)
    heading = 'document.querySelector("#document h3").firstChild.data.trim()'
    chromium.press("j")
    assert chromium.run(heading) == "two"
    chromium.press("Tab", "Tab")
    assert chromium.run("document.activeElement.innerText").startswith('A "x" <&>0 place of birth C\\D1')
    framed = '[...document.querySelectorAll("mark.head, mark.tail")].map((m) => m.firstChild.data)'
    assert chromium.run(framed) == ['A "x" <&>', "C\\D", "A left"]
    evidence = '[...document.querySelectorAll("ol.text > li")].map((line) => line.classList.contains("evidence"))'
    assert chromium.run(evidence) == [True, False]
    chromium.press("k", "/")
    assert chromium.run("document.activeElement.name") == "search"


@needs_chromium
@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_fits_the_window(chromium: Chromium, page: Path, width: int) -> None:
    chromium.look(width, 900)
    chromium.open(page)
    assert chromium.run("document.documentElement.scrollWidth") <= width


@needs_chromium
def test_filters_stand_in_one_line_and_scores_behind_their_triple(chromium: Chromium, page: Path) -> None:
    chromium.look(1280, 900)
    chromium.open(page)
    tops = chromium.run(
        """[...document.querySelectorAll("#filters label")].filter((label) => label.offsetParent !== null)
        .map((label) => Math.round(label.getBoundingClientRect().top))"""
    )
    assert len(tops) == 4 and len(set(tops)) == 1
    last = 'document.querySelector(".triples li button").lastChild.getBoundingClientRect().top'
    first = 'document.querySelector(".triples li i").getBoundingClientRect().top'
    assert abs(chromium.run(last) - chromium.run(first)) < 8
    assert chromium.run("document.querySelectorAll('nav a, h2').length") == 0  # the page has one section


@needs_chromium
def test_a_name_that_is_a_script_does_not_run(chromium: Chromium, tmp_path: Path) -> None:
    evil = "</script><script>window.ran = 1</script><img src=x onerror='window.ran = 1'>"
    found = result(evil)
    entities = tuple(replace(entity, name=evil, type=evil) for entity in found.entities)
    triples = tuple(replace(triple, relation_name=evil) for triple in found.triples)
    chromium.open(write(tmp_path / "a.html", replace(found, entities=entities, triples=triples)))
    assert chromium.run("window.ran") is None
    assert titles(chromium) == [evil]
