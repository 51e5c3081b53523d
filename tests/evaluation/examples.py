"""Small example documents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document, Label, Mention
from lmrc.evaluation.metrics.registry import Counts

RELATIONS = RelationSet(("P1", "P2", "P3"), ("country", "born in", "part of"))


def document(
    title: str,
    entities: Sequence[Sequence[tuple[str, int]]],
    labels: Sequence[tuple[int, int, str]] | None,
    type: str = "PER",
) -> Document:
    """Build a document from (name, sentence) of each mention. A sentence consists of the names in it."""
    sentences: list[list[str]] = [[] for _ in range(1 + max((s for e in entities for _, s in e), default=0))]
    made = []
    for entity in entities:
        mentions = []
        for name, sentence in entity:
            start = len(sentences[sentence])
            sentences[sentence].append(name)
            mentions.append(Mention(name, sentence, start, start + 1, type))
        made.append(tuple(mentions))
    gold = None if labels is None else tuple(Label(h, t, r) for h, t, r in labels)
    return Document(title, tuple(map(tuple, sentences)), tuple(made), gold)


def candidate_counts(gold: Iterable[Document], pairs: Iterable[tuple[str, int, int]]) -> Counts:
    """Count candidate pairs (title, head, tail) by their definition, over sets."""
    wanted = {(d.title, label.head, label.tail) for d in gold for label in d.labels or ()}
    found = set(pairs)
    return Counts(len(wanted & found), len(found), len(wanted))


def family() -> Document:
    """Return a document with two intra triples (Ann and Bob, sentence 0) and one inter triple (Paris, sentence 1)."""
    return document(
        "Family",
        [[("Ann", 0)], [("Bob", 0), ("Robert", 2)], [("Paris", 1)]],
        [(0, 1, "P1"), (0, 1, "P2"), (1, 2, "P3")],
    )
