"""Document types that all packages share: mentions, entities, triples, labels, documents."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

# The type of mentions that have none.
UNTYPED = "ENTITY"


@dataclass(frozen=True, slots=True)
class Mention:
    """One occurrence of an entity: tokens [start, end) of one sentence."""

    name: str
    sentence: int
    start: int
    end: int
    type: str


Entity = tuple[Mention, ...]


class Triple(NamedTuple):
    """A relation between two entities of a document: entity indices and relation id."""

    head: int
    tail: int
    relation: str


@dataclass(frozen=True, slots=True)
class Label:
    """A gold triple: entity indices, relation id (such as "P17"), and the sentences that support it."""

    head: int
    tail: int
    relation: str
    evidence: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """A checked document.

    Attributes:
        title: title, unique in a corpus.
        sentences: tokens of each sentence.
        entities: mentions of each entity.
        labels: gold triples, unique by (head, tail, relation). None if the file has no labels (a test set); empty if
            no relation holds.
        duplicate_labels: repeated labels in the file, which were merged. Ignored by `==`.
    """

    title: str
    sentences: tuple[tuple[str, ...], ...]
    entities: tuple[Entity, ...]
    labels: tuple[Label, ...] | None
    duplicate_labels: int = field(default=0, compare=False)
