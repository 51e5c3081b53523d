"""How well probabilities tell the pairs with a relation from the others: binary scores over unique (title, h, t)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.5


def f1_score(correct: int, proposed: int, gold: int) -> float:
    """F1 in percent; 0 where nothing is correct."""
    return 200.0 * correct / (proposed + gold) if correct else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Scores at every threshold that proposes another set of pairs, from the highest down: each [thresholds].

    A pair is proposed where its probability is at least the threshold, so equal probabilities stand or fall together.
    """

    thresholds: NDArray[np.float64]
    hits: NDArray[np.int64]
    """Gold pairs among those proposed."""
    proposed: NDArray[np.int64]
    gold: int

    @classmethod
    def of(cls, probabilities: NDArray[np.float64], gold: NDArray[np.bool_]) -> Curve:
        """The curve of P(relation) [pairs] against gold [pairs]."""
        order = np.argsort(-probabilities, kind="stable")
        descending = probabilities[order]
        # The last pair of each run of equal probabilities.
        last = np.flatnonzero(np.append(descending[1:] != descending[:-1], True)) if len(order) else order
        return cls(descending[last], np.cumsum(gold[order], dtype=np.int64)[last], last + 1, int(gold.sum()))

    @property
    def precision(self) -> NDArray[np.float64]:
        """In [0, 1]."""
        return self.hits / self.proposed

    @property
    def recall(self) -> NDArray[np.float64]:
        """In [0, 1]; `gold` must not be 0."""
        return self.hits / self.gold

    @property
    def f1(self) -> NDArray[np.float64]:
        """In [0, 1]; `gold` must not be 0."""
        return 2.0 * self.hits / (self.proposed + self.gold)


def binary_scores(probabilities: NDArray[np.float64], gold: NDArray[np.bool_]) -> dict[str, float]:
    """Scores of P(relation) [pairs] against gold [pairs].

    `precision`, `recall`, `f1` (percent) at the threshold 0.5; `average_precision` (percent), the area under the steps
    of the precision-recall curve; `best_f1` (percent) and the `best_threshold` it is reached at. Without
    gold pairs all scores are 0.
    """
    total = int(gold.sum())
    proposed = probabilities >= THRESHOLD
    correct = int((proposed & gold).sum())
    scores = {
        "precision": 100.0 * correct / int(proposed.sum()) if correct else 0.0,
        "recall": 100.0 * correct / total if correct else 0.0,
        "f1": f1_score(correct, int(proposed.sum()), total),
        "average_precision": 0.0,
        "best_f1": 0.0,
        "best_threshold": THRESHOLD,
    }
    if not total:
        return scores
    curve = Curve.of(probabilities, gold)
    best = int(curve.f1.argmax())
    scores["average_precision"] = 100.0 * float(np.sum(np.diff(curve.recall, prepend=0) * curve.precision))
    scores["best_f1"] = 100.0 * float(curve.f1[best])
    scores["best_threshold"] = float(curve.thresholds[best])
    return scores
