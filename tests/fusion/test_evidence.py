from __future__ import annotations

from dataclasses import replace
from math import exp, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmrc.common.errors import UserError
from lmrc.corpus.candidates import Candidate, RelationLogit
from lmrc.corpus.relations import RelationSet
from lmrc.fusion.evidence import LEAST, UNSCORED, Evidence, Question, log_odds, probability

RELATIONS = RelationSet(("P17", "P19", "P26"), ("country", "place of birth", "spouse"))
CANDIDATES = [
    (3, [Candidate(0, 1, 0.9, (RelationLogit("P17", -2.0), RelationLogit("P26", 1.5))), Candidate(1, 0, 0.2)]),
    (5, []),
    (7, [Candidate(2, 0, 1.0, (RelationLogit("P19", 0.5),))]),
]


def test_columns_of_candidates() -> None:
    evidence = Evidence.of(CANDIDATES, RELATIONS)
    assert evidence.questions() == [Question(3, 0, 1, "P17"), Question(3, 0, 1, "P26"), Question(7, 2, 0, "P19")]
    assert evidence.pair.tolist() == [0, 0, 2] and evidence.pairs == 3
    assert evidence.pair_logit.tolist() == pytest.approx([log(9), log(9), log((1 - LEAST) / LEAST)])
    assert evidence.relation_logit.tolist() == [-2.0, 1.5, 0.5]
    assert np.isnan(evidence.lm_logit).all() and len(evidence) == 3


def test_no_question() -> None:
    evidence = Evidence.of([(0, [Candidate(0, 1, 0.5)])], RELATIONS)
    assert (len(evidence), evidence.pairs, evidence.questions()) == (0, 1, [])
    assert len(evidence.with_lm({}, np.ones(1, dtype=bool), None)) == 0


def test_unknown_relation() -> None:
    with pytest.raises(UserError, match="unknown relation 'P99'"):
        Evidence.of([(0, [Candidate(0, 1, 0.5, (RelationLogit("P99", 0.0),))])], RELATIONS)


def test_scores_of_the_lm() -> None:
    """Only questions of asked pairs get log-odds; one without a score was not asked, or gets a low one."""
    evidence = Evidence.of(CANDIDATES, RELATIONS)
    scores = {Question(3, 0, 1, "P26"): 0.75, Question(7, 2, 0, "P19"): 0.5}
    pairs = np.array([True, False, False])
    assert np.isnan(evidence.with_lm(scores, pairs, None).lm_logit).tolist() == [True, False, True]
    asked = evidence.with_lm(scores, pairs, UNSCORED)
    assert asked.lm_logit[:2].tolist() == pytest.approx([log(UNSCORED / (1 - UNSCORED)), log(3)])
    assert np.isnan(asked.lm_logit[2]) and np.isnan(evidence.lm_logit).all()


def test_part() -> None:
    evidence = Evidence.of(CANDIDATES, RELATIONS)
    kept = evidence.part(np.array([False, True, True]))
    assert kept.questions() == evidence.questions()[1:]
    assert (kept.pair.tolist(), kept.pairs) == ([0, 2], 3)
    assert replace(kept, pairs=9).pairs == 9


@given(st.lists(st.floats(0.0, 1.0), max_size=20))
def test_log_odds_are_finite_and_inverse(values: list[float]) -> None:
    clipped = [min(max(value, LEAST), 1 - LEAST) for value in values]
    logits = log_odds(np.array(values))
    assert logits.tolist() == pytest.approx([log(value / (1 - value)) for value in clipped])
    assert probability(logits).tolist() == pytest.approx(clipped)


@given(st.floats(-800.0, 800.0))
def test_probability_does_not_overflow(logit: float) -> None:
    with np.errstate(all="raise", under="ignore"):
        (found,) = probability(np.array([logit])).tolist()
    assert found == pytest.approx(1 / (1 + exp(-logit)) if logit > -700 else 0.0)
