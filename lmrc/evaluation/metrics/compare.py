"""What changed between two sets of predictions for the same documents, triple by triple."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from lmrc.evaluation.metrics.bootstrap import Difference, paired
from lmrc.evaluation.metrics.scores import Scores
from lmrc.evaluation.metrics.triple_table import Flags, Triples

Change = Literal["gained", "lost", "new_wrong", "mended"]

CHANGES: dict[Change, str] = {
    "gained": "correct, in the second only",
    "lost": "correct, in the first only",
    "new_wrong": "wrong, in the second only",
    "mended": "wrong, in the first only",
}


class ChangedTriple(NamedTuple):
    """One triple that only one of the two predicts. Names are empty where document, entity or relation are unknown."""

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
    """Two systems of the same `Triples`."""

    triples: Triples
    scores: tuple[Scores, Scores]
    differences: dict[str, Difference]
    """Of every metric, with its interval and the p-value of the paired bootstrap test; {} without documents."""
    changes: dict[Change, Flags]
    """Which triples changed how."""

    def counts(self) -> dict[Change, int]:
        """How many triples changed how."""
        return {change: int(mask.sum()) for change, mask in self.changes.items()}

    def changed(self, *changes: Change) -> Iterator[ChangedTriple]:
        """Every change of these kinds, or of all, by kind, then by document, head, tail and relation."""
        triples = self.triples
        gold, relations = triples.known, triples.known.relations
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
        """For programs: scores in percent with their differences, and how many triples changed."""
        return {
            "differences": {name: difference.as_json() for name, difference in self.differences.items()},
            "changes": self.counts(),
            "first": self.scores[0].as_json(),
            "second": self.scores[1].as_json(),
        }


def compare(triples: Triples, scores: tuple[Scores, Scores]) -> Comparison:
    """Compare the first two systems of `triples`, whose scores these are."""
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
