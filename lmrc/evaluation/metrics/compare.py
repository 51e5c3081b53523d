"""Comparison of two sets of predictions for the same documents, triple by triple."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from lmrc.evaluation.metrics.bootstrap import Difference, paired
from lmrc.evaluation.metrics.scores import Scores
from lmrc.evaluation.metrics.triple_table import Flags, Triples

# Keys in the JSON and in the list of changed triples.
Change = Literal["gained", "lost", "new_wrong", "mended"]

CHANGES: dict[Change, str] = {
    "gained": "correct, in the second only",
    "lost": "correct, in the first only",
    "new_wrong": "wrong, in the second only",
    "mended": "wrong, in the first only",
}


class ChangedTriple(NamedTuple):
    """A triple that only one of the two systems predicts. Names of unknown entities and relations are empty."""

    change: Change
    title: str
    head: int
    head_name: str
    relation: str
    relation_name: str
    tail: int
    tail_name: str


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two systems on the same documents."""

    triples: Triples
    scores: tuple[Scores, Scores]
    # By metric, with interval and p-value of the paired bootstrap test; empty without documents.
    differences: dict[str, Difference]
    # [triples] for each kind of change.
    changes: dict[Change, Flags]

    def counts(self) -> dict[Change, int]:
        return {change: int(mask.sum()) for change, mask in self.changes.items()}

    def changed(self, *changes: Change) -> Iterator[ChangedTriple]:
        """Yield the changed triples of these kinds (all by default), by kind, document, head, tail and relation."""
        triples = self.triples
        gold, relations = triples.documents, triples.documents.relations
        for change in changes or self.changes:
            for row in np.flatnonzero(self.changes[change]).tolist():
                document, head, tail = (int(c[row]) for c in (triples.document, triples.head, triples.tail))
                relation = triples.relations[triples.relation[row]]
                yield ChangedTriple(
                    change,
                    triples.titles[document],
                    head,
                    gold.name(document, head) or "",
                    relation,
                    relations.name(relation) if relation in relations else "",
                    tail,
                    gold.name(document, tail) or "",
                )

    def as_json(self) -> dict[str, Any]:
        return {
            "differences": {name: difference.as_json() for name, difference in self.differences.items()},
            "changes": self.counts(),
            "first": self.scores[0].as_json(),
            "second": self.scores[1].as_json(),
        }


def compare(triples: Triples, scores: tuple[Scores, Scores]) -> Comparison:
    """Compare the first two systems of `triples`; `scores` are theirs."""
    first, second = triples.predicted[0], triples.predicted[1]
    gold = triples.gold
    return Comparison(
        triples,
        scores,
        paired(scores[0].by_document, scores[1].by_document),
        {
            "gained": gold & second & ~first,
            "lost": gold & first & ~second,
            "new_wrong": ~gold & second & ~first,
            "mended": ~gold & first & ~second,
        },
    )
