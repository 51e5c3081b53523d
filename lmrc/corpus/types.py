"""Documents with marked entities: the types that every package passes around."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


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
    """A gold triple of one document: entity indices, relation id (such as "P17"), sentences that support it."""

    head: int
    tail: int
    relation: str
    evidence: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """A checked document. `labels` is None where the file has none (a test set), () where no relation holds.

    `labels` are unique by (head, tail, relation). `duplicate_labels` counts the repetitions that reading merged into
    them; it tells of the source and takes no part in comparisons.
    """

    title: str
    sentences: tuple[tuple[str, ...], ...]
    entities: tuple[Entity, ...]
    labels: tuple[Label, ...] | None
    duplicate_labels: int = field(default=0, compare=False)
