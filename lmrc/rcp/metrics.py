"""Binary classification metrics over unique (title, h, t): does the pair have a relation?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmrc.config.schema import RcpTraining

DEFAULT_THRESHOLD = 0.5


def f1_score(correct: int, proposed: int, gold: int) -> float:
    """Return F1 in percent; 0 if nothing is correct."""
    return 200.0 * correct / (proposed + gold) if correct else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class PrecisionRecallCurve:
    """Counts at every threshold that proposes another set of pairs, in descending order.

    A pair is proposed if its probability is at least the threshold, so pairs of equal probability are proposed
    together.

    Attributes:
        thresholds: probabilities, [thresholds].
        true_positives: proposed pairs with a relation, [thresholds].
        proposed: proposed pairs, [thresholds].
        gold: number of all pairs with a relation.
    """

    thresholds: NDArray[np.float64]
    true_positives: NDArray[np.int64]
    proposed: NDArray[np.int64]
    gold: int

    @classmethod
    def of(cls, probabilities: NDArray[np.float64], gold: NDArray[np.bool_], missing: int = 0) -> PrecisionRecallCurve:
        """Return the curve.

        Args:
            probabilities: P(relation), [pairs].
            gold: True if the pair has a relation, [pairs].
            missing: number of gold pairs without a probability, which no threshold proposes.
        """
        order = np.argsort(-probabilities, kind="stable")
        descending = probabilities[order]
        # The last pair of each run of equal probabilities.
        last = np.flatnonzero(np.append(descending[1:] != descending[:-1], True)) if len(order) else order
        return cls(descending[last], np.cumsum(gold[order], dtype=np.int64)[last], last + 1, int(gold.sum()) + missing)

    def best_f1(self, least: float = 0.0) -> tuple[float, float]:
        """Return the threshold with the best F1, and this F1 in percent; 0.5 and 0 if nothing can be found.

        The threshold is the midpoint to the next lower probability, so that rounding errors do not matter.

        Args:
            least: lower bound of all probabilities, which is the next lower one of the last.
        """
        if not self.gold or not len(self.thresholds):
            return DEFAULT_THRESHOLD, 0.0
        best = int(self.f1.argmax())
        next_lower = np.append(self.thresholds[1:], least)[best]
        return float(self.thresholds[best] + next_lower) / 2, 100.0 * float(self.f1[best])

    @property
    def precision(self) -> NDArray[np.float64]:
        """Return the precision in [0, 1]."""
        return self.true_positives / self.proposed

    @property
    def recall(self) -> NDArray[np.float64]:
        """Return the recall in [0, 1]; `gold` must not be 0."""
        return self.true_positives / self.gold

    @property
    def f1(self) -> NDArray[np.float64]:
        """Return F1 in [0, 1]; `gold` must not be 0."""
        return 2.0 * self.true_positives / (self.proposed + self.gold)


def binary_scores(probabilities: NDArray[np.float64], gold: NDArray[np.bool_]) -> dict[str, float]:
    """Return the scores of P(relation) for gold labels.

    Args:
        probabilities: P(relation), [pairs].
        gold: True if the pair has a relation, [pairs].

    Returns:
        In percent: "precision", "recall" and "f1" at the threshold 0.5, "average_precision" (the step-wise area under
        the precision-recall curve) and "best_f1"; and "best_threshold", which reaches the best F1. Without gold pairs
        all scores are 0.
    """
    total = int(gold.sum())
    proposed = probabilities >= DEFAULT_THRESHOLD
    correct = int((proposed & gold).sum())
    scores = {
        "precision": 100.0 * correct / int(proposed.sum()) if correct else 0.0,
        "recall": 100.0 * correct / total if correct else 0.0,
        "f1": f1_score(correct, int(proposed.sum()), total),
        "average_precision": 0.0,
        "best_f1": 0.0,
        "best_threshold": DEFAULT_THRESHOLD,
    }
    if not total:
        return scores
    curve = PrecisionRecallCurve.of(probabilities, gold)
    best = int(curve.f1.argmax())
    scores["average_precision"] = 100.0 * float(np.sum(np.diff(curve.recall, prepend=0) * curve.precision))
    scores["best_f1"] = 100.0 * float(curve.f1[best])
    scores["best_threshold"] = float(curve.thresholds[best])
    return scores


def metric_problem(options: RcpTraining) -> str:
    """Return why the evaluations of this training do not give `train.metric`; an empty string if they do."""
    if options.metric == "relation_f1" and not options.relation_weight:
        return (
            "train.metric is relation_f1, the F1 of the relation head, but train.relation_weight is 0, so that there "
            "is no head: give --train.relation-weight 1, or another --train.metric"
        )
    return ""
