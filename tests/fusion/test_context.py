from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lmrc.fusion.context import NO_OTHER, other_relations, other_tails
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
    for q, relation, tail in zip(questions, other_relations(evidence), other_tails(evidence), strict=True):
        others = [o for o in questions if o != q and o.document == q.document]
        relations = [logits[o] for o in others if (o.head, o.tail) == (q.head, q.tail)]
        assert relation == max(relations, default=NO_OTHER)
        tails = [logits[o] for o in others if (o.head, o.relation) == (q.head, q.relation)]
        assert tail == max(tails, default=NO_OTHER)


@given(evidences())
def test_documents_do_not_see_each_other(evidence: Evidence) -> None:
    """So a worker that has one document of many computes the same bits."""
    for function in (other_relations, other_tails):
        whole = function(evidence)
        for number in (0, 1):
            inside = evidence.document == number
            assert np.array_equal(function(evidence.part(inside)), whole[inside], equal_nan=True)
