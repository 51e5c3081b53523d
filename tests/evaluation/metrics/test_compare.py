from __future__ import annotations

import json

from hypothesis import given, settings

from lmrc.corpus.predictions import Prediction, Predictions
from lmrc.corpus.types import Document
from lmrc.evaluation.metrics.compare import ChangedTriple, Comparison, compare
from lmrc.evaluation.metrics.gold_table import Gold
from lmrc.evaluation.metrics.scores import scores_of
from lmrc.evaluation.metrics.triple_table import Triples
from tests.evaluation.examples import RELATIONS, family
from tests.evaluation.strategies import as_predictions, documents, predicted


def compared(gold: list[Document], first: list[Prediction], second: list[Prediction]) -> Comparison:
    triples = Triples.of(Gold.of(gold, RELATIONS), [Predictions.of(first), Predictions.of(second)])
    first_scores, second_scores = scores_of(triples)
    return compare(triples, (first_scores, second_scores))


@settings(deadline=None)
@given(documents(), predicted, predicted)
def test_changes_agree_with_sets(gold: list[Document], first: list[Prediction], second: list[Prediction]) -> None:
    second = second + as_predictions(gold)[::2]
    gold_set, first_set, second_set = (
        {(p.title, p.head, p.tail, p.relation) for p in given} for given in (as_predictions(gold), first, second)
    )
    found: dict[str, set[tuple[str, int, int, str]]] = {
        kind: set() for kind in ("gained", "lost", "new_wrong", "mended")
    }
    comparison = compared(gold, first, second)
    for x in comparison.changed():
        triple = (x.title, x.head, x.tail, x.relation)
        assert triple not in found[x.change]
        found[x.change].add(triple)
    assert found == {
        "gained": (second_set & gold_set) - first_set,
        "lost": (first_set & gold_set) - second_set,
        "new_wrong": second_set - gold_set - first_set,
        "mended": first_set - gold_set - second_set,
    }
    assert comparison.counts() == {kind: len(triples) for kind, triples in found.items()}


def test_changes_have_names() -> None:
    first = [Prediction("Family", 0, 1, "P2"), Prediction("Family", 2, 9, "P9"), Prediction("Nobody", 0, 1, "P1")]
    second = [Prediction("Family", 1, 2, "P3"), Prediction("Family", 2, 0, "P1")]
    comparison = compared([family()], first, second)
    assert list(comparison.changed()) == [
        ChangedTriple("gained", "Family", 1, "Bob", "P3", "part of", 2, "Paris"),
        ChangedTriple("lost", "Family", 0, "Ann", "P2", "born in", 1, "Bob"),
        ChangedTriple("new_wrong", "Family", 2, "Paris", "P1", "country", 0, "Ann"),
        ChangedTriple("mended", "Family", 2, "Paris", "P9", "", 9, ""),
        ChangedTriple("mended", "Nobody", 0, "", "P1", "country", 1, ""),
    ]
    found = comparison.as_json()
    assert found["changes"] == {"gained": 1, "lost": 1, "new_wrong": 1, "mended": 2}
    assert found["first"]["f1"] == 100 * 2 / 6
    assert found["second"]["f1"] == 40.0
    assert found["differences"]["f1"]["difference"] == 40.0 - 100 * 2 / 6
    json.dumps(found, allow_nan=False)


def test_changes_are_sorted() -> None:
    titles = [f"Nobody {letter}" for letter in "hbfaecdg"]
    first = [Prediction(title, 0, 1, f"Q{number}") for title in titles for number in (3, 1, 2)]
    changed = [(x.title, x.relation) for x in compared([family()], first, []).changed()]
    assert changed == sorted(changed)
    assert len(changed) == 24
