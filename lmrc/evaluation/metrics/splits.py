"""Scores by kind of triple: frequency of the relation, sentence distance, mentions, document length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from lmrc.corpus.relations import RelationSet
from lmrc.evaluation.metrics.registry import Counts
from lmrc.evaluation.metrics.train_facts import Facts
from lmrc.evaluation.metrics.triple_table import Triples

# Number of relations that count as frequent; the others are the long tail.
FREQUENT = 10

# Smallest value of each bin. They are fixed, so that scores on different documents can be compared.
MENTIONS = (2, 3, 4, 5, 7, 10)
DISTANCES = (0, 1, 2, 3, 4)
WORDS = (1, 151, 201, 251, 301, 501, 1001)


@dataclass(frozen=True, slots=True)
class Split:
    """A partition of the triples with the counts of each part.

    Predictions with an unknown title, entity or relation may be in no part.
    """

    # Key in the JSON.
    name: str
    # Heading in tables.
    meaning: str
    parts: dict[str, Counts]


def all_splits(triples: Triples, system: int, facts: Facts | None) -> tuple[Split, ...]:
    gold = triples.documents
    words = np.concatenate([gold.words, np.zeros(len(triples.titles) - len(gold), dtype=np.int32)])[triples.document]
    exists = triples.entities_exist
    mentions = triples.mentions(triples.head) + triples.mentions(triples.tail)
    counted = f"the training {'triples' if facts and facts.training else 'facts'}" if facts else "the gold triples"
    return (
        Split(
            "relation_frequency",
            f"relations: the {FREQUENT} most frequent of {counted}, and the others",
            _counts_by_part(triples, system, _frequency_parts(triples, facts), ("frequent", "long_tail")),
        ),
        _binned(triples, system, "sentence_distance", "sentences between the nearest mentions of head and tail",
                np.where(exists, triples.distance, -1), DISTANCES),
        _binned(triples, system, "mentions", "mentions of head and tail together",
                np.where(exists, mentions, -1), MENTIONS),
        _binned(triples, system, "document_words", "words of the document", np.where(words > 0, words, -1), WORDS),
    )  # fmt: skip


def frequent_relations(counts: Mapping[str, int], relations: RelationSet) -> tuple[str, ...]:
    """Return the `FREQUENT` most frequent relations; ties in the order of the relation set."""
    ordered = sorted(relations.ids, key=lambda relation: -counts.get(relation, 0))
    return tuple(ordered[:FREQUENT])


def _frequency_parts(triples: Triples, facts: Facts | None) -> npt.NDArray[np.int64]:
    """Return 0 for a frequent relation, 1 for another one, -1 for an unknown one, `[triples]`."""
    relations = triples.documents.relations
    if facts is None:
        gold = np.bincount(triples.documents.relation, minlength=len(relations)).tolist()
        counts: Mapping[str, int] = dict(zip(relations.ids, gold, strict=True))
    else:
        counts = facts.by_relation()
    frequent = set(frequent_relations(counts, relations))
    part = [(0 if relation in frequent else 1) if relation in relations else -1 for relation in triples.relations]
    return np.array(part, dtype=np.int64)[triples.relation]


def _binned(
    triples: Triples, system: int, name: str, meaning: str, values: npt.NDArray[Any], lows: Sequence[int]
) -> Split:
    """Split the triples by `values` [triples], negative if unknown, into bins that start at `lows`."""
    names = [str(low) if low == high - 1 else f"{low}-{high - 1}" for low, high in pairwise(lows)] + [f"{lows[-1]}+"]
    part = np.searchsorted(lows, values, side="right").astype(np.int64) - 1
    return Split(name, meaning, _counts_by_part(triples, system, part, names))


def _counts_by_part(
    triples: Triples, system: int, part: npt.NDArray[np.int64], names: Sequence[str]
) -> dict[str, Counts]:
    """Count the triples of each part; `part` is `[triples]` indices into `names`, or -1 for no part."""
    predicted = triples.predicted[system]
    columns = [
        np.bincount(part[mask & (part >= 0)], minlength=len(names)).tolist()
        for mask in (predicted & triples.gold, predicted, triples.gold)
    ]
    return {name: Counts(*counts) for name, *counts in zip(names, *columns, strict=True)}
