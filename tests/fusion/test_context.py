from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmrc.fusion.context import NO_OTHER, lm_same_head, lm_same_tail, other_relations, other_tails
from lmrc.fusion.evidence import Evidence


@st.composite
def evidences(draw: st.DrawFn) -> Evidence:
    """Questions about three entities of two documents, some of which the LM was asked."""
    number = st.integers(0, 2)
    keys = sorted(draw(st.sets(st.tuples(st.integers(0, 1), number, number, number), max_size=25)))
    pairs = sorted({key[:3] for key in keys})
    document, head, tail, relation = np.array(keys, dtype=np.int32).reshape(-1, 4).T.copy()
    logits = st.lists(st.floats(-4, 4), min_size=len(keys), max_size=len(keys))
    asked = draw(st.lists(st.booleans(), min_size=len(keys), max_size=len(keys)))
    return Evidence(
        ("P17", "P19", "P26"),
        document,
        head,
        tail,
        relation,
        np.array([pairs.index(key[:3]) for key in keys], dtype=np.int32),
        np.zeros(len(keys)),
        np.array(draw(logits), dtype=np.float64),
        np.where(np.array(asked, dtype=bool), np.array(draw(logits), dtype=np.float64), np.nan),
        len(pairs),
    )


@given(evidences())
def test_context_equals_a_search_through_all_questions(evidence: Evidence) -> None:
    questions = evidence.questions()
    logits = dict(zip(questions, evidence.relation_logit.tolist(), strict=True))
    lm = {q: v for q, v in zip(questions, evidence.lm_logit.tolist(), strict=True) if not np.isnan(v)}
    for q, relation, tail, same_tail, same_head in zip(
        questions,
        other_relations(evidence),
        other_tails(evidence),
        lm_same_tail(evidence),
        lm_same_head(evidence),
        strict=True,
    ):
        others = [o for o in questions if o != q and o.document == q.document]
        relations = [logits[o] for o in others if (o.head, o.tail) == (q.head, q.tail)]
        assert relation == max(relations, default=NO_OTHER)
        tails = [logits[o] for o in others if (o.head, o.relation) == (q.head, q.relation)]
        assert tail == max(tails, default=NO_OTHER)
        if q not in lm:
            assert np.isnan(same_tail) and np.isnan(same_head)
            continue
        of_tail = [value for o, value in lm.items() if (o.document, o.tail) == (q.document, q.tail)]
        assert same_tail == pytest.approx(sum(of_tail) / len(of_tail), abs=1e-9)
        of_head = [v for o, v in lm.items() if (o.document, o.head, o.relation) == (q.document, q.head, q.relation)]
        assert same_head == pytest.approx(float(np.log(np.exp(of_head).sum())), abs=1e-9)


@given(evidences())
def test_documents_do_not_see_each_other(evidence: Evidence) -> None:
    """So a worker that has one document of many computes the same bits."""
    for function in (other_relations, other_tails, lm_same_tail, lm_same_head):
        whole = function(evidence)
        for number in (0, 1):
            inside = evidence.document == number
            assert np.array_equal(function(evidence.part(inside)), whole[inside], equal_nan=True)


def test_pairs_that_are_not_asked_are_no_context() -> None:
    columns = np.zeros(2, dtype=np.int32)
    both = np.array([0, 1], dtype=np.int32)
    evidence = Evidence(
        ("P17",), columns, columns, both, columns, both, np.zeros(2), np.zeros(2), np.array([1.0, 3]), 2
    )
    assert lm_same_head(evidence)[0] == pytest.approx(np.logaddexp(1, 3))
    part = evidence.without_lm(np.array([False, True]))
    assert lm_same_head(part)[0] == 1.0 and np.isnan(lm_same_head(part)[1])
    assert replace(part, lm_logit=evidence.lm_logit).lm_logit.tolist() == [1.0, 3.0]
