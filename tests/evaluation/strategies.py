"""Hypothesis strategies for small gold documents and predictions with many overlaps."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from lmrc.corpus.predictions import Prediction
from lmrc.corpus.types import Document
from tests.evaluation.examples import RELATIONS, document

names = st.sampled_from(["a", "b", "A"])
relation_ids = st.sampled_from(RELATIONS.ids)
sentence_sets = st.lists(st.integers(0, 2), unique=True, max_size=2).map(tuple)


@st.composite
def documents(draw: st.DrawFn) -> list[Document]:
    """Draw up to three labeled documents."""
    made = []
    for title in draw(st.lists(st.sampled_from("xyz"), unique=True, max_size=3)):
        entity = st.lists(st.tuples(names, st.integers(0, 2)), min_size=1, max_size=2)
        entities = draw(st.lists(entity, min_size=1, max_size=4))
        index = st.integers(0, len(entities) - 1)
        triple = st.tuples(index, index, relation_ids).filter(lambda x: x[0] != x[1])
        plain = document(title, entities, draw(st.lists(triple, unique=True, max_size=6)))
        labels = tuple(replace(label, evidence=draw(sentence_sets)) for label in plain.labels or ())
        made.append(replace(plain, labels=labels))
    return made


# With known and unknown titles, entities and relations.
predicted = st.lists(
    st.builds(
        Prediction,
        st.sampled_from("xyzw"),
        st.integers(-1, 4),
        st.integers(-1, 4),
        relation_ids | st.just("P9"),
        st.none(),
        st.none() | sentence_sets,
    ),
    max_size=12,
)


def as_predictions(gold: list[Document]) -> list[Prediction]:
    """Return the gold triples as predictions."""
    return [
        Prediction(d.title, label.head, label.tail, label.relation, None, label.evidence)
        for d in gold
        for label in d.labels or ()
    ]
