"""Scores by kind of triple: frequent and rare relations, mentions, distance, length of the document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from lmrc.corpus.relations import RelationSet
from lmrc.evaluation.metrics.counts import Counts
from lmrc.evaluation.metrics.train_facts import Facts
from lmrc.evaluation.metrics.triple_table import Triples

FREQUENT = 10
"""Relations that count as frequent; the others are the long tail."""

MENTIONS = (2, 3, 4, 5, 7, 10)
DISTANCES = (0, 1, 2, 3, 4)
WORDS = (1, 151, 201, 251, 301, 501, 1001)
"""The least value of each part. Fixed, so that scores on different documents can be compared."""


@dataclass(frozen=True, slots=True)
class Split:
    """Counts of parts of the triples, by the name of the part.

    Parts share no triple. Predictions for titles, entities or relations that do not exist are in none of them.
    """

    name: str
    """For programs."""
    meaning: str
    """For people: what the parts are."""
    parts: dict[str, Counts]


def splits_of(triples: Triples, system: int, facts: Facts | None) -> tuple[Split, ...]:
    """All splits of one system's triples."""
    known = triples.known
    words = np.concatenate([known.words, np.zeros(len(triples.titles) - len(known), dtype=np.int32)])[triples.document]
    placed = triples.placed
    mentions = triples.mentions(triples.head) + triples.mentions(triples.tail)
    counted = f"the training {'triples' if facts and facts.training else 'facts'}" if facts else "the gold triples"
    return (
        Split(
            "relation_frequency",
            f"relations: the {FREQUENT} most frequent of {counted}, and the others",
            _parts(triples, system, _frequency(triples, facts), ("frequent", "long_tail")),
        ),
        _binned(triples, system, "sentence_distance", "sentences between the nearest mentions of head and tail",
                np.where(placed, triples.distance, -1), DISTANCES),
        _binned(triples, system, "mentions", "mentions of head and tail together",
                np.where(placed, mentions, -1), MENTIONS),
        _binned(triples, system, "document_words", "words of the document", np.where(words > 0, words, -1), WORDS),
    )  # fmt: skip


def frequent_relations(counts: Mapping[str, int], relations: RelationSet) -> tuple[str, ...]:
    """The most frequent relations, by `counts` of triples; the earlier in the relation set where they are equal."""
    ordered = sorted(relations.ids, key=lambda relation: -counts.get(relation, 0))
    return tuple(ordered[:FREQUENT])


def _frequency(triples: Triples, facts: Facts | None) -> npt.NDArray[np.int64]:
    """For each triple 0 where its relation is frequent, 1 where it is not, -1 where it is unknown."""
    relations = triples.known.relations
    if facts is None:
        gold = np.bincount(triples.known.relation, minlength=len(relations)).tolist()
        counts: Mapping[str, int] = dict(zip(relations.ids, gold, strict=True))
    else:
        counts = facts.by_relation()
    frequent = set(frequent_relations(counts, relations))
    part = [(0 if relation in frequent else 1) if relation in relations else -1 for relation in triples.relations]
    return np.array(part, dtype=np.int64)[triples.relation]


def _binned(
    triples: Triples, system: int, name: str, meaning: str, values: npt.NDArray[Any], least: Sequence[int]
) -> Split:
    """The split of triples by a number, negative where it is unknown, into parts that begin at `least`."""
    names = [str(low) if low == high - 1 else f"{low}-{high - 1}" for low, high in pairwise(least)] + [f"{least[-1]}+"]
    part = np.searchsorted(least, values, side="right").astype(np.int64) - 1
    return Split(name, meaning, _parts(triples, system, part, names))


def _parts(triples: Triples, system: int, part: npt.NDArray[np.int64], names: Sequence[str]) -> dict[str, Counts]:
    """The counts of each part, where `part` [triples] is its place in `names`, or -1 for none."""
    predicted = triples.predicted[system]
    columns = [
        np.bincount(part[mask & (part >= 0)], minlength=len(names)).tolist()
        for mask in (predicted & triples.gold, predicted, triples.gold)
    ]
    return {name: Counts(*counts) for name, *counts in zip(names, *columns, strict=True)}
