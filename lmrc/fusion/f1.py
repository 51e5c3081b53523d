"""F1 of scored questions, over all gold triples: those that are no question count as missed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lmrc.fusion.evidence import Bools, Floats


class BestF1(NamedTuple):
    """A threshold as a probability, and its F1 in percent."""

    threshold: float
    f1: float


def f1_score(correct: int, predicted: int, gold: int) -> float:
    """Return F1 in percent; 0 if nothing is correct."""
    return 200.0 * correct / (predicted + gold) if correct else 0.0


def best_f1(probabilities: Floats, correct: Bools, gold: int) -> BestF1:
    """Return the threshold with the best F1; 0.5 and 0 if nothing is correct.

    The threshold is the midpoint to the next lower probability, so that rounding errors do not matter.

    Args:
        probabilities: probability of each question, [questions].
        correct: True if the triple is gold, [questions].
        gold: number of gold triples, including those that are no question.
    """
    if not correct.any():
        return BestF1(0.5, 0.0)
    order = np.argsort(-probabilities, kind="stable")
    descending = probabilities[order]
    # The last question of each run of equal probabilities.
    last = np.flatnonzero(np.append(descending[1:] != descending[:-1], True))
    f1 = 200.0 * np.cumsum(correct[order])[last] / (last + 1 + gold)
    best = int(f1.argmax())
    next_lower = descending[last[best] + 1] if best + 1 < len(last) else 0.0
    return BestF1(float(descending[last[best]] + next_lower) / 2, float(f1[best]))
