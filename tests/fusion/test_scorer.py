from __future__ import annotations

from math import exp, log

import pytest

from lmrc.common.errors import UserError
from lmrc.corpus.candidates import Candidate, RelationLogit
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Triple
from lmrc.fusion.model import Asked
from lmrc.fusion.scorer import Scorer
from tests.fusion.test_model import RELATIONS, fusion

# Their probabilities without LM are 0.38, 0.98 and, without a question, none.
CANDIDATES = [
    Candidate(0, 1, 0.5, (RelationLogit("P17", 0.0),)),
    Candidate(0, 2, 0.5, (RelationLogit("P17", 9.0),)),
    Candidate(0, 3, 0.5),
]


def sigmoid(value: float) -> float:
    return 1 / (1 + exp(-value))


@pytest.mark.parametrize(("asked", "pairs"), [("band", [(0, 1)]), ("all", [(0, 1), (0, 2)]), ("none", [])])
def test_asked_pairs_and_their_scores(asked: Asked, pairs: list[tuple[int, int]]) -> None:
    scorer = Scorer(fusion(), asked, RELATIONS)
    assert scorer.pairs(CANDIDATES) == pairs
    answers = {Triple(0, 1, "P17"): 0.9, Triple(0, 2, "P17"): 0.2, Triple(0, 3, "P19"): 0.99}
    expected = {
        pair: sigmoid(-1 + 0.25 * logit + 2 * log(p / (1 - p))) if pair in pairs else sigmoid(-0.5 + 0.5 * logit)
        for pair, logit, p in (((0, 1), 0.0, 0.9), ((0, 2), 9.0, 0.2))
    }
    found = scorer.triples(CANDIDATES, answers)
    assert [triple for triple, _ in found] == [Triple(0, 1, "P17"), Triple(0, 2, "P17")]
    assert [score for _, score in found] == pytest.approx(list(expected.values()))


def test_relation_head_alone() -> None:
    scorer = Scorer(None, "none", RELATIONS)
    assert scorer.pairs(CANDIDATES) == []
    assert [score for _, score in scorer.triples(CANDIDATES, {})] == pytest.approx([0.5, sigmoid(9)])
    assert scorer.triples([], {}) == []


def test_another_relation_set() -> None:
    with pytest.raises(UserError, match="another relation set"):
        Scorer(fusion(), "all", RelationSet(("P17",), ("country",)))
