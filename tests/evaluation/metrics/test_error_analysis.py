from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrc.corpus.docred import read_documents
from lmrc.corpus.predictions import Prediction, Predictions
from lmrc.corpus.relations import DOCRED
from lmrc.corpus.types import Document
from lmrc.evaluation.metrics.error_analysis import CAUSES, Analysis, analyze
from lmrc.evaluation.metrics.gold_table import Gold
from lmrc.evaluation.metrics.scores import Counts
from lmrc.evaluation.metrics.triple_table import Triples
from tests.evaluation.examples import RELATIONS, candidate_counts, document, family
from tests.evaluation.strategies import as_predictions, documents, predicted

Pairs = list[tuple[str, int, int]]


def analysed(gold: list[Document], predictions: list[Prediction], pairs: Pairs | None, relations: Any) -> Analysis:
    triples = Triples.of(Gold.of(gold, relations), [Predictions.of(predictions)])
    return analyze(triples, 0, None if pairs is None else [(title, [(h, t)]) for title, h, t in pairs])


def slow_causes(
    gold: list[Document], predictions: list[Prediction], pairs: Pairs | None
) -> tuple[dict[str, tuple[int, int]], Counts]:
    """Return (missed, wrong) by cause, and the counts on the gold pairs that RC saw."""
    wanted = {(d.title, x.head, x.tail, x.relation) for d in gold for x in d.labels or ()}
    found = {(p.title, p.head, p.tail, p.relation) for p in predictions}
    gold_pairs = {triple[:3] for triple in wanted}
    seen = {triple[:3] for triple in found} | set(pairs or [])
    possible = {(d.title, h, t) for d in gold for h in range(len(d.entities)) for t in range(len(d.entities)) if h != t}
    confused = {triple[:3] for triple in found - wanted}
    missed, wrong = dict.fromkeys(CAUSES, 0), dict.fromkeys(CAUSES, 0)
    for triple in wanted - found:
        pair = triple[:3]
        if pair not in seen:
            missed["not_proposed"] += 1
        elif pair in confused:
            missed["relation_wrong"] += 1
        else:
            missed["relation_missed"] += 1
    for triple in found - wanted:
        pair = triple[:3]
        if pair in gold_pairs:
            wrong["relation_wrong"] += 1
        elif pair in possible:
            wrong["false_pair"] += 1
        else:
            wrong["no_such_pair"] += 1
    w = {triple for triple in wanted if triple[:3] in seen}
    f = {triple for triple in found if triple[:3] in gold_pairs}
    return {cause: (missed[cause], wrong[cause]) for cause in CAUSES}, Counts(len(f & w), len(f), len(w))


def check(gold: list[Document], predictions: list[Prediction], pairs: Pairs | None, relations: Any) -> Analysis:
    found = analysed(gold, predictions, pairs, relations)
    causes, seen = slow_causes(gold, predictions, pairs)
    assert {error.cause: (error.missed, error.wrong) for error in found.errors} == causes
    assert found.seen == seen
    # Each missed and each wrong triple has one cause.
    assert sum(error.missed for error in found.errors) == found.counts.gold - found.counts.correct
    assert sum(error.wrong for error in found.errors) == found.counts.predicted - found.counts.correct
    if pairs is None:
        assert found.proposed is None
        assert found.unproposed == 0
    else:
        assert found.proposed == candidate_counts(gold, pairs)
        unique = {(p.title, p.head, p.tail, p.relation) for p in predictions}
        offered = set(pairs)
        assert found.unproposed == sum(triple[:3] not in offered for triple in unique)
    return found


@settings(deadline=None)
@given(
    documents(),
    predicted,
    st.none() | st.lists(st.tuples(st.sampled_from("xyzwv"), st.integers(-1, 4), st.integers(-1, 4)), max_size=12),
)
def test_agrees_with_sets(gold: list[Document], predictions: list[Prediction], pairs: Pairs | None) -> None:
    right = as_predictions(gold)
    mistaken = [replace(p, relation="P1") for p in right[::2]] + right[1::3]
    check(gold, predictions + mistaken, pairs, RELATIONS)


def test_by_hand() -> None:
    """Gold: pair (0, 1) with P1 and P2, pair (1, 2) with P3; in the other document (0, 1) and (1, 0)."""
    gold = [family(), document("Other", [[("x", 0)], [("y", 0)]], [(0, 1, "P1"), (1, 0, "P2")])]
    predictions = [
        Prediction("Family", 0, 1, "P1"),  # correct; P2 of the pair is missed
        Prediction("Family", 2, 0, "P1"),  # a false pair
        Prediction("Family", 0, 2, "P1"),  # a false pair
        Prediction("Other", 0, 1, "P3"),  # wrong relation: P1 is missed
        Prediction("Other", 7, 1, "P3"),
    ]
    pairs = [("Family", 0, 1), ("Family", 2, 0), ("Family", 0, 2), ("Other", 0, 1), ("Other", 7, 1), ("Other", 1, 0)]
    found = check(gold, predictions, pairs, RELATIONS)
    assert found.as_json()["losses"] == {
        "not_proposed": {"missed": 1, "wrong": 0, "f1_if_mended": pytest.approx(100 * 2 * 2 / (6 + 5))},
        "relation_missed": {"missed": 2, "wrong": 0, "f1_if_mended": pytest.approx(100 * 2 * 3 / (7 + 5))},
        "relation_wrong": {"missed": 1, "wrong": 1, "f1_if_mended": pytest.approx(100 * 2 * 2 / (5 + 5))},
        "false_pair": {"missed": 0, "wrong": 2, "f1_if_mended": pytest.approx(100 * 2 * 1 / (3 + 5))},
        "no_such_pair": {"missed": 0, "wrong": 1, "f1_if_mended": pytest.approx(100 * 2 * 1 / (4 + 5))},
    }
    # On the three gold pairs that RC saw: 1 of 2 is correct, 4 gold triples.
    assert found.perfect_rcp == pytest.approx(100 * 2 * 1 / (2 + 4))
    assert found.perfect_rc == pytest.approx(100 * 2 * 4 / (4 + 2 + 5))
    assert found.perfect_rc_with_none == pytest.approx(100 * 2 * 4 / (4 + 5))
    assert found.proposed == Counts(3, 6, 4)


def test_repeated_and_unknown_candidates() -> None:
    # Gold pairs: (0, 1), with two relations, and (1, 2).
    pairs = [("Family", 0, 1), ("Family", 0, 1), ("Family", 2, 0), ("Other", 0, 1)]
    counts = check([family()], [], pairs, RELATIONS).proposed
    assert counts is not None
    assert counts == Counts(correct=1, predicted=3, gold=2)
    assert (counts.precision, counts.recall, counts.f1) == (pytest.approx(100 / 3), 50.0, 40.0)
    assert check([family()], [], [], RELATIONS).proposed == Counts(0, 0, 2)


def test_pairs_without_prediction_are_not_proposed_without_candidates() -> None:
    found = check([family()], [Prediction("Family", 0, 1, "P1")], None, RELATIONS)
    losses = {error.cause: (error.missed, error.wrong) for error in found.errors}
    assert losses["not_proposed"] == (1, 0)
    assert losses["relation_missed"] == (1, 0)
    assert analysed([family()], [], None, RELATIONS).perfect_rcp is None
    assert found.as_json()["rcp"] is None


def test_upper_bounds_agree_with_scores_of_such_predictions(shared_data: Path) -> None:
    """RCP has 80 % recall, RC is correct in 70 %; each bound is compared with predictions that reach it."""
    dev = list(read_documents(shared_data / "redocred_dev.json", DOCRED))
    rng = random.Random(4)
    of_pair: dict[tuple[str, int, int], list[str]] = {}
    for d in dev:
        for x in d.labels or ():
            of_pair.setdefault((d.title, x.head, x.tail), []).append(x.relation)
    pairs = [pair for pair in of_pair if rng.random() < 0.8]
    false = [(d.title, 1, 0) for d in dev if (d.title, 1, 0) not in of_pair]
    answers = [
        Prediction(*pair, r if rng.random() < 0.7 else rng.choice(DOCRED.ids)) for pair in pairs for r in of_pair[pair]
    ]
    noise = [Prediction(*pair, "P17") for pair in false]
    found = check(dev, answers + noise, pairs + false, DOCRED)
    right = [Prediction(*pair, r) for pair in pairs for r in of_pair[pair]]
    gold_only = analysed(dev, right, None, DOCRED).counts
    assert found.perfect_rc_with_none == gold_only.f1
    assert found.perfect_rc == analysed(dev, right + noise, None, DOCRED).counts.f1
    # An RC that answers the other pairs equally well reaches about the upper bound.
    others = sorted(of_pair.keys() - pairs)
    answers += [
        Prediction(*pair, r if rng.random() < 0.7 else rng.choice(DOCRED.ids)) for pair in others for r in of_pair[pair]
    ]
    assert found.perfect_rcp == pytest.approx(analysed(dev, answers, None, DOCRED).counts.f1, abs=0.5)
