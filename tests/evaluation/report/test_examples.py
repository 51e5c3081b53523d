from __future__ import annotations

from dataclasses import replace

from lmrc.corpus.predictions import Prediction
from lmrc.corpus.types import Document, Mention
from lmrc.evaluation.metrics.scores import score
from lmrc.evaluation.report.examples import MOST_WORDS, Piece, choose_examples, examples_html, marked
from lmrc.evaluation.scored_run import ScoredRun
from tests.evaluation.examples import RELATIONS, document, family

NAMES = [[(name, 0)] for name in "abcde"]
GOLD = [(0, 1, "P1"), (1, 2, "P1"), (2, 3, "P1"), (3, 4, "P1")]


def scored_run(documents: list[Document], correct: dict[str, int], wrong: dict[str, int] | None = None) -> ScoredRun:
    """Return a run with the first `correct` gold triples of each document, and `wrong` others."""
    found = [
        Prediction(d.title, label.head, label.tail, label.relation)
        for d in documents
        for label in (d.labels or ())[: correct.get(d.title, 0)]
    ]
    found += [Prediction(title, 4, at, "P3") for title, count in (wrong or {}).items() for at in range(count)]
    return ScoredRun("run", documents, RELATIONS, found, score(documents, found, RELATIONS), "own")


def chosen(run: ScoredRun) -> dict[str, str]:
    return {word: example.document.title for word, example in choose_examples(run)}


def test_best_median_and_worst_by_f1() -> None:
    documents = [document(title, NAMES, GOLD) for title in "vwxyz"]
    run = scored_run(documents, {"v": 1, "w": 4, "x": 3, "y": 2, "z": 0})
    assert chosen(run) == {"Best": "w", "Middling": "y", "Worst": "z"}
    scores = [round(example.counts.f1, 2) for _, example in choose_examples(run)]
    assert scores == [100.0, 66.67, 0.0]


def test_equal_f1_prefers_more_gold_triples_then_the_first_document() -> None:
    more = [*GOLD, (4, 0, "P2")]
    documents = [document(title, NAMES, more if title in "bd" else GOLD) for title in "abcd"]
    run = scored_run(documents, {"a": 4, "b": 5})
    assert chosen(run)["Best"] == "b"
    assert choose_examples(run)[-1][1].document.title == "d"


def test_short_documents_with_several_triples_are_preferred() -> None:
    long = document("long", [*NAMES, [("word", 0)] * MOST_WORDS], GOLD)
    few = document("few", NAMES, GOLD[:1])
    handy = [document(title, NAMES, GOLD) for title in "xyz"]
    correct = {"long": 4, "few": 1, "x": 3, "y": 2, "z": 1}
    assert chosen(scored_run([long, few, *handy], correct)) == {"Best": "x", "Middling": "y", "Worst": "z"}
    # There are not three of them: all documents count.
    assert chosen(scored_run([long, few, *handy[:2]], correct))["Best"] == "long"


def test_fewer_than_three_documents() -> None:
    documents = [document(title, NAMES, GOLD) for title in "xy"]
    assert list(chosen(scored_run(documents, {"x": 4}))) == ["Best", "Middling"]
    assert list(chosen(scored_run(documents[:1], {}))) == ["Best"]
    empty = scored_run([document("z", NAMES, [])], {})
    assert chosen(empty) == {} and list(examples_html(empty)) == []


def test_marks_of_mentions_that_overlap() -> None:
    made = family()
    assert marked(made, 0) == [Piece("Ann", "PER", (0,), (0,)), Piece("Bob", "PER", (1,), (1,))]
    inner = (Mention("York", 0, 1, 2, "LOC"),)
    outer = (Mention("New York Times", 0, 0, 3, "ORG"),)
    nested = replace(made, sentences=(("New", "York", "Times", "sells", "papers"),), entities=(outer, inner))
    assert marked(nested, 0) == [
        Piece("New", "ORG", (0,), ()),
        Piece("York", "ORG", (0, 1), (1,)),
        Piece("Times", "ORG", (0,), (0,)),
        Piece("sells papers"),
    ]


def test_html_has_text_outcomes_and_a_link() -> None:
    made = replace(document("A & <b>", NAMES, GOLD), title="A & <b>")
    page = "".join(examples_html(scored_run([made], {"A & <b>": 1}, {"A & <b>": 2})))
    assert "Best: A &amp; &lt;b&gt; <small>F1 28.6</small>" in page
    assert 'href="#run=run&amp;document=A+%26+%3Cb%3E"' in page
    assert '<mark class="PER">a<sub>0</sub></mark>' in page
    lines = [line for line in page.splitlines() if line.startswith("<li class=")]
    assert [line.split('"')[1] for line in lines] == ["correct", *["missed"] * 3, *["wrong"] * 2]
    assert lines[0] == '<li class="correct">a <i title="P1">country</i> b <span>✓ correct</span></li>'
    assert "<b>" not in page
