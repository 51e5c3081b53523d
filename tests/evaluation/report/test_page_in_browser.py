"""The page in a headless Chromium."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote_plus

import pytest

from lmrc.corpus.docred import read_documents
from lmrc.corpus.predictions import Prediction
from lmrc.corpus.relations import DOCRED
from lmrc.corpus.types import Document
from lmrc.evaluation.metrics.scores import score
from lmrc.evaluation.plots.figures import relation_bars
from lmrc.evaluation.report.artifacts import ReportItem, error_items, paper_items, summary_items
from lmrc.evaluation.report.document_browser import documents_html
from lmrc.evaluation.report.examples import examples_html
from lmrc.evaluation.report.overview import overview_html
from lmrc.evaluation.report.page import Section, report_items_html, write_report
from lmrc.evaluation.scored_run import ScoredRun
from lmrc.evaluation.tables.table import Table
from tests.evaluation.examples import RELATIONS, document
from tests.evaluation.report.chromium import Chromium, needs_chromium

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def noisy(name: str, dev: list[Document], seed: int) -> ScoredRun:
    """Return a run that misses 20 % of gold, changes 10 % of the relations and adds false pairs; RCP misses 10 %."""
    rng = random.Random(seed)
    common = [label.relation for document in dev for label in document.labels or ()]
    found, candidates = [], {}
    for made in dev:
        labels = made.labels or ()
        kept = {(label.head, label.tail) for label in labels if rng.random() < 0.9}
        candidates[made.title] = frozenset(kept)
        for label in labels:
            if (label.head, label.tail) in kept and rng.random() < 0.8:
                relation = label.relation if rng.random() < 0.9 else rng.choice(common)
                found.append(Prediction(made.title, label.head, label.tail, relation))
        for _ in range(4):
            head, tail = rng.sample(range(len(made.entities)), 2)
            found.append(Prediction(made.title, head, tail, rng.choice(common)))
    return ScoredRun(name, dev, DOCRED, found, score(dev, found, DOCRED), "dev", candidates)


def write(path: Path, runs: list[ScoredRun]) -> Path:
    wide = ReportItem("bars", "F1 by relation", relation_bars(runs[0].scores, runs[0].relations))
    parts = {
        "summary": summary_items(runs),
        "tables": paper_items(runs),
        "figures": [wide],
        "errors": error_items(runs),
    }
    sections = [
        Section("overview", "Overview", overview_html(runs)),
        Section("examples", "Examples", examples_html(runs[0])),
    ]
    sections += [Section(name, name.title(), report_items_html(found)) for name, found in parts.items()]
    return write_report(path, "Report", *sections, Section("documents", "Documents", documents_html(runs)))


@pytest.fixture(scope="module")
def real(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ScoredRun]]:
    dev = list(read_documents(shared_data / "redocred_dev.json", DOCRED))
    runs = [noisy("first", dev, 1), noisy("second", dev, 2)]
    return write(tmp_path_factory.mktemp("page") / "report.html", runs), runs


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a page with three documents: all correct; one missed and one wrong; no gold and one wrong."""
    people = [[("Ann", 0), ("Ann", 1)], [("Bob", 0)], [("Paris", 1)]]
    documents = [
        document("Right", people, [(0, 1, "P1")]),
        document("Mixed", people, [(0, 1, "P1"), (1, 2, "P3")]),
        document("Wrong", people[:2], []),
    ]
    found = [("Right", 0, 1, "P1"), ("Mixed", 0, 1, "P1"), ("Mixed", 0, 2, "P2"), ("Wrong", 1, 0, "P2")]
    predictions = [Prediction(*row) for row in found]
    run = ScoredRun("run", documents, RELATIONS, predictions, score(documents, predictions, RELATIONS), "own")
    return write(tmp_path_factory.mktemp("small") / "report.html", [run])


def titles(chromium: Chromium) -> list[str]:
    found: list[str] = chromium.run('[...document.querySelectorAll("#titles button")].map((b) => b.firstChild.data)')
    return found


def shown(chromium: Chromium) -> list[list[str]]:
    """Return the pair and the lines of each item as text, without the indices of entities."""
    found: list[list[str]] = chromium.run(
        """[...document.querySelectorAll(".triples li button")].map((button) => {
        const lines = [...button.querySelectorAll("span")].map((line) => line.textContent);
        const pair = [...button.childNodes].filter((n) => !["SUB", "SPAN"].includes(n.nodeName));
        return [pair.map((n) => n.textContent).join(""), ...lines]; })"""
    )
    return found


def fragment(chromium: Chromium) -> str:
    return unquote_plus(chromium.run("location.hash"))


def test_500_documents_load_in_two_seconds_without_messages(
    chromium: Chromium, real: tuple[Path, list[ScoredRun]]
) -> None:
    page, _ = real
    assert page.stat().st_size < 10_000_000
    # CPU time of the page's thread: wall time depends on other processes.
    chromium.call("Performance.enable", timeDomain="threadTicks")
    chromium.open(page)
    metrics = {metric["name"]: metric["value"] for metric in chromium.call("Performance.getMetrics")["metrics"]}
    chromium.call("Performance.disable")
    assert chromium.messages == []
    assert chromium.requests == [page.resolve().as_uri()]  # no network
    assert len(titles(chromium)) == 500
    assert 0.05 < metrics["TaskDuration"] < 2.0  # measured: 0.6


def test_filters_agree_with_sets(chromium: Chromium, real: tuple[Path, list[ScoredRun]]) -> None:
    page, runs = real
    dev, second = runs[1].documents, runs[1]
    found = {(p.title, p.head, p.tail, p.relation) for p in second.predictions}
    gold = {(d.title, x.head, x.tail, x.relation) for d in dev for x in d.labels or ()}
    expected = {
        "missed": {t for t in gold - found if t[3] == "P17"},
        "wrong": {t for t in found - gold if t[3] == "P17"},
        "correct": {t for t in gold & found if t[3] == "P17"},
        "errors": {t for t in gold ^ found if t[3] == "P17"},
        "not_proposed": {
            t
            for t in gold - found
            if t[3] == "P17"
            and (t[1], t[2]) not in (second.candidates or {})[t[0]]
            and not any(f[:3] == t[:3] for f in found)
        },
    }
    for kind, triples in expected.items():
        chromium.open(page, f"#run=second&relation=P17&kind={kind}")
        with_any = {title for title, *_ in triples}
        assert titles(chromium) == [d.title for d in dev if d.title in with_any]
        status = chromium.run('document.getElementById("found").textContent')
        assert status == f"{len(with_any)} of 500 documents, {len(triples):,} triples"
    assert chromium.messages == []


def test_gold_and_predicted_triples_of_a_pair_stand_together(chromium: Chromium, small: Path) -> None:
    chromium.open(small, "#document=Mixed")
    assert shown(chromium) == [
        ["Ann, Bob", "✓ country correct"],
        ["Ann, Paris", "✗ born in wrong: the pair has no relation"],
        ["Bob, Paris", "○ part of missed: the pair was not proposed"],
    ]
    heading = chromium.run("document.querySelector('.triples h4').textContent")
    assert heading == "Triples by pair: gold → predicted 3"
    chromium.open(small, "#kind=missed&document=Mixed")
    assert shown(chromium) == [["Bob, Paris", "○ part of missed: the pair was not proposed"]]
    assert chromium.run("document.querySelector('.triples small').textContent") == "1 of 3, filtered"
    chromium.open(small, "#document=Mixed")
    marks = chromium.run('[...document.querySelectorAll("ol.text li")].map((line) => line.innerHTML)')
    assert [re.findall(r">(\w+)<sub>(\d)<", line) for line in marks] == [
        [("Ann", "0"), ("Bob", "1")],
        [("Ann", "0"), ("Paris", "2")],
    ]
    assert chromium.run("document.querySelector('ol.text mark').className") == "PER"


def test_a_wrong_relation_stands_behind_the_gold_one(chromium: Chromium, tmp_path: Path) -> None:
    people = [[("Ann", 0)], [("Bob", 0)]]
    documents = [document("Mixed", people, [(0, 1, "P1"), (0, 1, "P3")])]
    predictions = [Prediction("Mixed", 0, 1, "P1"), Prediction("Mixed", 0, 1, "P2")]
    run = ScoredRun("run", documents, RELATIONS, predictions, score(documents, predictions, RELATIONS), "own")
    page = write(tmp_path / "report.html", [run])
    expected = [["Ann, Bob", "✓ country correct", "✗ part of → born in wrong: the pair has another relation"]]
    chromium.open(page)
    assert shown(chromium) == expected
    colors = """[...document.querySelectorAll(".triples span:last-child i")].map((i) => getComputedStyle(i).color)"""
    missed, wrong = chromium.run(colors)
    assert missed != wrong == chromium.run("getComputedStyle(document.querySelector('.triples span:last-child')).color")
    chromium.open(page, "#relation=P3")  # the gold relation shows what was found instead
    assert shown(chromium) == [["Ann, Bob", expected[0][2]]]


def test_filters_update_the_url(chromium: Chromium, small: Path) -> None:
    chromium.open(small)
    assert titles(chromium) == ["Right", "Mixed", "Wrong"]

    def choose(name: str, value: str) -> None:
        chromium.run(
            f"""{{ const field = document.getElementById("filters").elements["{name}"]; field.value = "{value}";
            field.dispatchEvent(new Event("input", {{ bubbles: true }})); }}"""
        )

    choose("kind", "wrong")
    assert titles(chromium) == ["Mixed", "Wrong"]
    assert fragment(chromium) == "#kind=wrong&document=Mixed"
    options = chromium.run('[...document.querySelector("[name=relation]").options].map((o) => o.textContent)')
    assert options == ["all (2)", "born in P2 (2)"]
    choose("order", "worst")
    assert titles(chromium) == ["Wrong", "Mixed"]
    choose("kind", "")
    choose("search", "PARIS")
    assert titles(chromium) == ["Mixed", "Right"]
    assert chromium.run('document.getElementById("found").textContent') == "2 of 3 documents, 4 triples"
    choose("search", "nowhere")
    assert titles(chromium) == []
    assert "No document matches" in chromium.run('document.getElementById("document").textContent')
    address = fragment(chromium)
    chromium.open(small, address)
    assert fragment(chromium) == address == "#order=worst&search=nowhere"
    assert chromium.messages == []


def test_keyboard_navigation(chromium: Chromium, small: Path) -> None:
    chromium.look(1280, 900)
    chromium.open(small, "#document=Right")
    heading = 'document.querySelector("#document h3").firstChild.data.trim()'
    chromium.press("j")
    assert chromium.run(heading) == "Mixed"
    assert chromium.run('document.activeElement.getAttribute("aria-current")') == "true"
    chromium.press("ArrowDown", "ArrowDown")
    assert chromium.run(heading) == "Wrong"  # the last document stays
    chromium.press("k")
    assert chromium.run(heading) == "Mixed"
    # Tab moves from the list through the text to the triples, whose head and tail are then framed.
    chromium.press("Tab", "Tab")
    assert chromium.run("document.activeElement.textContent") == "Ann0, Bob1✓ country correct"
    framed = '[...document.querySelectorAll("mark.head, mark.tail")].map((m) => `${m.className} ${m.firstChild.data}`)'
    assert chromium.run(framed) == ["PER head Ann", "PER tail Bob", "PER head Ann"]
    assert chromium.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    chromium.press("/")
    assert chromium.run("document.activeElement.name") == "search"
    chromium.press("j")
    assert chromium.run("document.activeElement.value") == "j"  # j is typed, not a shortcut
    chromium.press("Escape", "k")
    assert chromium.run("document.activeElement.name") != "search"


def test_escape_empties_the_search_and_its_filter(chromium: Chromium, small: Path) -> None:
    chromium.open(small)
    chromium.press("/", *"paris")
    assert titles(chromium) == ["Right", "Mixed"]
    chromium.press("Escape")
    assert chromium.run("document.getElementById('filters').elements.search.value") == ""
    assert titles(chromium) == ["Right", "Mixed", "Wrong"]
    assert "search" not in fragment(chromium)


def relation_rows(chromium: Chromium) -> list[str]:
    """Return the names of the relations that are shown, in their order."""
    found: list[str] = chromium.run(
        """[...document.querySelector("table.sortable").tBodies[0].rows].filter((row) => !row.hidden)
        .map((row) => row.cells[1].textContent)"""
    )
    return found


def test_table_of_relations_is_sorted_with_the_keyboard(chromium: Chromium, small: Path) -> None:
    """Gold, predicted, F1: country 2, 2, 100; part of 1, 0, 0; born in 0, 2, 0."""
    chromium.look(1280, 900)
    chromium.open(small)
    head = 'document.querySelector("table.sortable").tHead.rows[0]'
    chromium.run('document.querySelector("table.sortable").closest("details").open = true')
    assert relation_rows(chromium) == ["country", "part of", "born in"]
    chromium.run(f"{head}.cells[6].querySelector('button').focus()")  # Predicted
    chromium.press("Enter")
    assert relation_rows(chromium) == ["country", "born in", "part of"]
    assert chromium.run(f"{head}.cells[6].ariaSort") == "descending"
    chromium.press("Enter")
    assert relation_rows(chromium) == ["part of", "country", "born in"]
    assert chromium.run(f"{head}.cells[6].ariaSort") == "ascending"
    chromium.run(f"{head}.cells[1].querySelector('button').focus()")  # Name
    chromium.press("Enter")
    assert relation_rows(chromium) == ["born in", "country", "part of"]
    assert chromium.run(f"[...{head}.cells].map((cell) => cell.ariaSort).filter(Boolean)") == ["ascending"]
    assert chromium.messages == []


def test_numbers_with_thousands_are_sorted_as_numbers(chromium: Chromium, tmp_path: Path) -> None:
    rows = tuple((name, value) for name, value in (("a", "9"), ("b", "1,000"), ("c", "-"), ("d", "20")))
    item = ReportItem("x", "Numbers", Table(("Name", "Gold"), rows), folded=False, sortable=True)
    chromium.open(write_report(tmp_path / "page.html", "Page", Section("x", "X", report_items_html([item]))))
    order = '[...document.querySelectorAll("tbody th")].map((cell) => cell.textContent).join("")'
    button = 'document.querySelectorAll("thead button")[1]'
    assert (chromium.run(f"{button}.click()"), chromium.run(order))[1] == "bdac"
    assert (chromium.run(f"{button}.click()"), chromium.run(order))[1] == "adbc"  # a missing value stays last


def test_table_of_relations_is_filtered(chromium: Chromium, small: Path) -> None:
    chromium.open(small)
    chromium.run('document.querySelector("table.sortable").closest("details").open = true')
    chromium.run('document.querySelector(".tools input").focus()')
    chromium.press(*"p2 born")
    assert relation_rows(chromium) == ["born in"]
    assert chromium.run('document.querySelector(".tools [role=status]").textContent') == "1 of 3"
    chromium.press("Escape")
    assert len(relation_rows(chromium)) == 3


def test_first_column_and_navigation_stay_in_sight(chromium: Chromium, real: tuple[Path, list[ScoredRun]]) -> None:
    chromium.look(400, 800)
    chromium.open(real[0], "#summary")
    left = "document.querySelector('#summary tbody th').getBoundingClientRect().left"
    box = "document.querySelector('#summary .scroll')"
    before = chromium.run(left)
    chromium.run(f"{box}.scrollLeft = 150")
    assert chromium.run(f"{box}.scrollLeft") > 0
    assert chromium.run(left) == before
    assert chromium.run("scrollY") > 800
    assert chromium.run("document.querySelector('nav').getBoundingClientRect().top") == 0
    # The browser reports the visible section with one of the next frames.
    current = "document.querySelector('nav [aria-current]').hash"
    waited = f"for (let n = 0; n < 200 && {current} !== '#summary'; n++) await new Promise((go) => setTimeout(go, 25))"
    assert chromium.run(f"(async () => {{ {waited}; return {current}; }})()") == "#summary"


def test_f1_of_relations_is_in_sight_on_a_phone(chromium: Chromium, real: tuple[Path, list[ScoredRun]]) -> None:
    chromium.look(400, 800)
    chromium.open(real[0])
    chromium.run('document.querySelector("table.sortable").closest("details").open = true')
    right = chromium.run(
        """[...document.querySelectorAll("table.sortable")][0].querySelector("td.share").getBoundingClientRect().right"""
    )
    assert 100 < right < 386


@pytest.mark.parametrize("width", [400, 1400])
def test_bars_have_the_lengths_of_their_values(
    chromium: Chromium, real: tuple[Path, list[ScoredRun]], width: int
) -> None:
    chromium.look(width, 900)
    chromium.open(real[0])
    shares = chromium.run(
        """[...document.querySelector(".headline").querySelectorAll("li")].map((line) => {
        const [track, fill] = [".track", ".fill"].map((name) => line.querySelector(name).getBoundingClientRect().width);
        return [Number(line.querySelector("b").textContent), 100 * fill / track]; })"""
    )
    assert len(shares) == 12  # six metrics, two runs
    for value, length in shares:
        assert length == pytest.approx(value, abs=0.3)


def test_example_opens_its_document(chromium: Chromium, small: Path) -> None:
    chromium.open(small)
    chromium.run("document.querySelectorAll('.example a')[1].click()")
    chromium.run("new Promise((done) => setTimeout(done, 200))")
    shown_title = chromium.run("document.querySelector('#document h3').firstChild.data.trim()")
    assert chromium.run("document.querySelectorAll('.example h3')[1].textContent").startswith(
        f"Middling: {shown_title}"
    )


def test_focused_triple_is_not_covered_by_the_text(chromium: Chromium, real: tuple[Path, list[ScoredRun]]) -> None:
    chromium.look(1280, 900)
    chromium.open(real[0], "#document=Ross+Alger")
    chromium.press("j", "k", "Tab")
    for _ in range(12):
        chromium.press("Tab")
        edges = chromium.run(
            """(() => { const here = document.activeElement.getBoundingClientRect();
            const text = document.querySelector("ol.text").getBoundingClientRect();
            return [text.top, text.bottom, here.top, here.bottom, innerHeight]; })()"""
        )
        top, bottom, first, last, height = edges
        assert -1 <= top < bottom <= first + 1 < last <= height + 1  # fractions of a pixel


def luminance(color: str) -> float:
    """Return the relative luminance (WCAG 2) of "rgb(r, g, b)"."""
    parts = [int(value) / 255 for value in re.findall(r"\d+", color)[:3]]
    linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_contrast(chromium: Chromium, small: Path, scheme: str) -> None:
    """WCAG 2 level AA: a contrast of at least 4.5 to 1 between text and background."""
    chromium.look(1280, 900, scheme)
    chromium.open(small, "#document=Mixed")
    pairs = chromium.run(
        """[...document.querySelectorAll("body *")].filter((e) => !e.closest("svg, script, [hidden], noscript") &&
        [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())).map((e) => {
          let at = e;
          while (at && getComputedStyle(at).backgroundColor === "rgba(0, 0, 0, 0)") at = at.parentElement;
          const background = getComputedStyle(at || document.body).backgroundColor;
          return [e.textContent.slice(0, 40), getComputedStyle(e).color, background];
        })"""
    )
    assert len(pairs) > 100
    for text, color, background in pairs:
        high, low = sorted((luminance(color), luminance(background)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, color, background)
    assert (luminance(chromium.run("getComputedStyle(document.body).backgroundColor")) < 0.1) == (scheme == "dark")


def test_theme_button_overrides_the_system(chromium: Chromium, small: Path) -> None:
    chromium.look(1280, 900, "dark")
    chromium.open(small)
    button, background = 'document.getElementById("theme")', "getComputedStyle(document.body).backgroundColor"
    dark = chromium.run(background)
    chromium.run(f"{button}.click()")
    assert chromium.run(f"{button}.textContent") == "Theme: light"
    assert luminance(chromium.run(background)) > 0.9
    chromium.run(f"{button}.click()")
    assert chromium.run(background) == dark
    chromium.look(1280, 900, "light")
    assert chromium.run(background) == dark
    chromium.run(f"{button}.click()")
    assert luminance(chromium.run(background)) > 0.9


@pytest.mark.parametrize("width", [400, 1280])
def test_page_does_not_scroll_horizontally(chromium: Chromium, real: tuple[Path, list[ScoredRun]], width: int) -> None:
    chromium.look(width, 900)
    chromium.open(real[0], "#kind=missed")
    chromium.run('document.querySelectorAll("details").forEach((folded) => { folded.open = true; })')
    assert chromium.run("document.documentElement.scrollWidth") <= width


def test_injected_script_does_not_run(chromium: Chromium, tmp_path: Path) -> None:
    evil = Section("evil", "Evil", ("<script>window.ran = 1</script><img src=x onerror='window.ran = 1'>",))
    chromium.open(write_report(tmp_path / "evil.html", "Evil", evil))
    assert chromium.run("window.ran") is None
    assert any("Content Security Policy" in message for message in chromium.messages)


def test_printed_page_is_complete(chromium: Chromium, real: tuple[Path, list[ScoredRun]]) -> None:
    """A4 with margins of 1 cm: dark text, no table wider than the paper, nothing folded."""
    chromium.look(718, 1000, "dark")
    chromium.open(real[0])
    folded = chromium.run('document.querySelectorAll("details:not([open])").length')
    assert folded > 0
    chromium.run('window.dispatchEvent(new Event("beforeprint"))')
    chromium.call("Emulation.setEmulatedMedia", media="print")
    try:
        assert chromium.run('document.querySelectorAll("details:not([open])").length') == 0
        assert luminance(chromium.run("getComputedStyle(document.body).color")) < 0.1
        sides = chromium.run(
            '[...document.querySelectorAll("td, th, figure")].map((e) => e.getBoundingClientRect().right)'
        )
        assert len(sides) > 1000
        assert max(sides) <= 718
    finally:
        chromium.call("Emulation.setEmulatedMedia", media="")
    chromium.run('window.dispatchEvent(new Event("afterprint"))')
    assert chromium.run('document.querySelectorAll("details:not([open])").length') == folded
