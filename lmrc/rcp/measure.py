"""How well probabilities tell the pairs with a relation from the others: binary scores over unique (title, h, t)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.5


def f1_score(correct: int, proposed: int, gold: int) -> float:
    """F1 in percent; 0 where nothing is correct."""
    return 200.0 * correct / (proposed + gold) if correct else 0.0


def binary_scores(probabilities: NDArray[np.float64], gold: NDArray[np.bool_]) -> dict[str, float]:
    """Scores of P(relation) [pairs] against gold [pairs].

    `precision`, `recall`, `f1` (percent) at the threshold 0.5; `average_precision` (percent), the area under the steps
    of the precision-recall curve; `best_f1` (percent) and the `best_threshold` it is reached at. A pair is proposed
    where its probability is at least the threshold, so equal probabilities stand or fall together. Without gold pairs
    all scores are 0.
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
    order = np.argsort(-probabilities, kind="stable")
    descending = probabilities[order]
    # The last pair of each run of equal probabilities.
    last = np.flatnonzero(np.append(descending[1:] != descending[:-1], True))
    hits = np.cumsum(gold[order])[last]
    precision = hits / (last + 1)
    f1 = 2.0 * hits / (last + 1 + total)
    best = int(f1.argmax())
    scores["average_precision"] = 100.0 * float(np.sum(np.diff(hits, prepend=0) / total * precision))
    scores["best_f1"] = 100.0 * float(f1[best])
    scores["best_threshold"] = float(descending[last[best]])
    return scores
