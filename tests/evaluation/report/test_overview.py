from __future__ import annotations

import random
import re

import pytest

from lmrc.corpus.predictions import Prediction
from lmrc.corpus.types import Document
from lmrc.evaluation.metrics.error_analysis import CAUSES
from lmrc.evaluation.metrics.scores import score
from lmrc.evaluation.report.overview import Bar, funnel, headline, losses, overview_html
from lmrc.evaluation.scored_run import ScoredRun
from tests.evaluation.examples import RELATIONS, document


def scored_run(
    name: str,
    documents: list[Document],
    found: list[tuple[str, int, int, str]],
    candidates: dict[str, frozenset[tuple[int, int]]] | None = None,
) -> ScoredRun:
    predictions = [Prediction(*row) for row in found]
    scores = score(documents, predictions, RELATIONS)
    return ScoredRun(name, documents, RELATIONS, predictions, scores, "own", candidates)


def one() -> ScoredRun:
    """Return a run on 2 documents with 8 pairs; 3 are proposed, 2 of them have a relation; 3 triples, 1 correct."""
    documents = [
        document("x", [[("a", 0)], [("b", 0)], [("c", 0)]], [(0, 1, "P1"), (1, 2, "P2")]),
        document("y", [[("a", 0)], [("b", 0)]], [(0, 1, "P1"), (1, 0, "P1")]),
    ]
    found = [("x", 0, 1, "P1"), ("x", 1, 2, "P3"), ("x", 2, 0, "P3")]
    return scored_run("run", documents, found, {"x": frozenset([(0, 1), (1, 2), (2, 0)]), "y": frozenset()})


def test_funnel_counts_pairs_proposals_and_triples_on_one_scale() -> None:
    bars = {bar.label: bar for bar in funnel(one())}
    assert [(label, bar.text, bar.end, bar.inner) for label, bar in bars.items()] == [
        ("Pairs of entities", "8", 100.0, None),
        ("Proposed by RCP", "3", 75.0, 50.0),
        ("Triples", "3", 75.0, 25.0),
        ("Correct triples", "1", 25.0, 25.0),
        ("Gold triples", "4", 100.0, None),
    ]
    assert bars["Pairs of entities"].kind == "cut" and bars["Gold triples"].kind == "gold"
    assert bars["Proposed by RCP"].note == "37.5 % of the pairs, 50.0 % of those with a relation"
    assert bars["Triples"].note == "1.00 per proposed pair"
    assert bars["Correct triples"].note == "33.3 % of the triples, 25.0 % of the gold ones"


def test_funnel_without_candidates_has_no_proposals() -> None:
    run = scored_run("run", one().documents, [("x", 0, 1, "P1")])  # type: ignore[arg-type]
    assert [bar.label for bar in funnel(run)] == ["Pairs of entities", "Triples", "Correct triples", "Gold triples"]


def test_losses_fall_from_100_to_f1_without_gaps() -> None:
    rng = random.Random(3)
    triples = [(h, t, r) for h in range(5) for t in range(5) for r in RELATIONS.ids]
    for _ in range(30):
        gold = rng.sample([t for t in triples if t[0] != t[1] and max(t[:2]) < 4], rng.randrange(1, 12))
        documents = [document("x", [[(name, 0)] for name in "abcd"], gold)]
        found = [("x", *rng.choice(triples)) for _ in range(rng.randrange(15))]
        run = scored_run("run", documents, found, {"x": frozenset({(0, 1), (1, 2)})})
        *steps, last = losses(run)
        ends = [100.0, *(bar.start for bar in steps)]
        assert [bar.end for bar in steps] == pytest.approx(ends[:-1])
        assert (last.start, last.end) == (0, run.scores.all.f1)
        assert ends[-1] == pytest.approx(last.end)
        assert all(bar.label in CAUSES.values() and bar.start < bar.end for bar in steps)


def test_loss_of_one_cause_alone_is_what_f1_lacks() -> None:
    found = [("x", 0, 1, "P1"), ("x", 1, 2, "P2"), ("y", 0, 1, "P1"), ("y", 1, 0, "P1"), ("x", 2, 0, "P3")]
    (step, _) = losses(scored_run("run", list(one().documents), found))
    assert step.label == CAUSES["false_pair"]
    assert step.text == f"-{100 - 800 / 9:.2f}"


def test_headline_has_a_bar_per_run_with_its_interval() -> None:
    first = one()
    second = scored_run("second", list(first.documents), [("x", 0, 1, "P1"), ("y", 0, 1, "P1")])
    panels = dict(headline([first, second]))
    assert list(panels) == ["F1", "Precision", "Recall", "Intra F1", "Inter F1", "F1 of RCP"]
    assert [bar.label for bar in panels["F1"]] == ["run", "second"]
    assert [bar.label for bar in panels["F1 of RCP"]] == ["run"]  # the other one has no candidates
    interval = first.scores.intervals["f1"]
    bar = panels["F1"][0]
    assert (bar.text, bar.end, bar.interval) == ("28.57", first.scores.all.f1, (interval.low, interval.high))
    assert bar.note == f"{interval.low:.2f} to {interval.high:.2f}"


def test_style_of_a_bar_has_its_lengths_only() -> None:
    assert Bar("a", "1", 0, 12.345).style == "--start:0.00;--end:12.35"
    bar = Bar("a", "1", 10, 20, interval=(11, 19), inner=15)
    assert bar.style == "--start:10.00;--end:20.00;--inner:15.00;--low:11.00;--high:19.00"


def test_runs_are_folded_if_there_are_many() -> None:
    run = one()
    pages = ["".join(overview_html([run] * count)) for count in (0, 1, 2, 3)]
    assert pages[0] == ""
    assert [page.count('<details class="run"') for page in pages] == [0, 0, 2, 3]
    assert [page.count('<details class="run" open>') for page in pages] == [0, 0, 2, 0]
    # The name of a single run is not repeated.
    assert 'class="label">run<' not in pages[1] and 'class="label">run<' in pages[2]


def test_names_are_escaped() -> None:
    run = scored_run("<b>run", list(one().documents), [])
    page = "".join(overview_html([run, run]))
    assert "<b>run" not in page and "&lt;b&gt;run" in page
    assert re.findall(r'style="([^"]*)"', page)
