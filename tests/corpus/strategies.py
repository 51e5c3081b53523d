"""Hypothesis strategies for checked documents."""

from __future__ import annotations

from hypothesis import strategies as st

from lmrc.corpus.relations import DOCRED, RelationSet
from lmrc.corpus.types import Document, Label, Mention

text = st.text(max_size=8)


@st.composite
def documents(draw: st.DrawFn, relations: RelationSet = DOCRED, labelled: bool | None = None) -> Document:
    """Draw a document with 1 to 5 entities. Labels are unique by (h, t, r); `labelled=None` draws if it has any."""
    sentences = draw(st.lists(st.lists(text, max_size=6).map(tuple), max_size=4).map(tuple))
    # At least one sentence can hold a mention.
    sentences = (*sentences, tuple(draw(st.lists(text, min_size=1, max_size=6))))
    nonempty = [(index, len(sentence)) for index, sentence in enumerate(sentences) if sentence]

    @st.composite
    def mentions(draw: st.DrawFn) -> Mention:
        sentence, length = draw(st.sampled_from(nonempty))
        start = draw(st.integers(0, length - 1))
        end = draw(st.integers(start + 1, length))
        return Mention(draw(text), sentence, start, end, draw(st.sampled_from(("PER", "LOC", "TIME", ""))))

    entities = draw(
        st.lists(st.lists(mentions(), min_size=1, max_size=3).map(tuple), min_size=1, max_size=5).map(tuple)
    )
    labels: tuple[Label, ...] | None = None
    if draw(st.booleans()) if labelled is None else labelled:
        label = st.builds(
            Label,
            st.integers(0, len(entities) - 1),
            st.integers(0, len(entities) - 1),
            st.sampled_from(relations.ids),
            st.lists(st.integers(0, len(sentences) - 1), max_size=3).map(tuple),
        ).filter(lambda label: label.head != label.tail)
        unique = st.lists(label, max_size=6, unique_by=lambda label: (label.head, label.tail, label.relation))
        labels = tuple(draw(unique)) if len(entities) > 1 else ()
    return Document(draw(text), sentences, entities, labels)


def corpora(relations: RelationSet = DOCRED) -> st.SearchStrategy[list[Document]]:
    """Draw one to six documents with different titles."""
    return st.lists(documents(relations), min_size=1, max_size=6, unique_by=lambda document: document.title)
