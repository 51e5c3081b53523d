"""Thresholds that hold a precision on unseen documents, by learn-then-test.

Documents are the exchangeable units. The risk of a document is FP - (1 - p) * predicted: its mean is at most 0 if and
only if the precision (expected correct / expected predicted triples) is at least p. Thresholds are tested from high to
low, in an order that does not depend on the labels, and testing stops at the first one that cannot be certified. So the
probability that the chosen threshold misses the precision is at most `DELTA`, if each test is valid.

Source: Angelopoulos et al. 2021, Learn then Test, section 3.2 (fixed sequence testing).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, exp, log, sqrt
from statistics import NormalDist

import numpy as np

from lmrc.fusion.evidence import Bools, Floats, Ints

# Probability that a threshold misses its precision.
DELTA = 0.1
# Precisions of the table.
TARGETS = tuple(round(0.5 + step / 100, 2) for step in range(50))
# Factor between the numbers of triples at two tested thresholds.
GROWTH = 1.05
# The first threshold predicts this many times the least number of triples that can certify a precision without an
# error. A sequence that starts with fewer would often stop at its first error.
HEAD_START = 5


def certified_thresholds(
    probabilities: Floats,
    correct: Bools,
    document: Ints,
    targets: Sequence[float] = TARGETS,
    delta: float = DELTA,
) -> tuple[tuple[float, float], ...]:
    """Return (precision, smallest certified threshold) for each precision that can be certified.

    Args:
        probabilities: probability of each question, not fitted on its document, [questions].
        correct: True if the triple is gold, [questions].
        document: index of the document, [questions].
    """
    order = np.argsort(-probabilities, kind="stable")
    ranked, wrong = probabilities[order], ~correct[order]
    documents = np.unique(document, return_inverse=True)[1].reshape(-1)[order].astype(np.int32)
    certified = []
    for target in targets:
        threshold = _certify(ranked, wrong, documents, target, delta)
        if threshold is not None:
            certified.append((target, threshold))
    return tuple(certified)


def _certify(ranked: Floats, wrong: Bools, document: Ints, target: float, delta: float) -> float | None:
    """Return the last threshold of the sequence that is certified, or None. The columns descend by probability."""
    count = int(document.max()) + 1 if len(document) else 0
    predicted, false = np.zeros(count), np.zeros(count)
    chosen, start = None, 0
    for end, threshold in _sequence(ranked, target, delta):
        part = document[start:end]
        predicted += np.bincount(part, minlength=count)
        false += np.bincount(part[wrong[start:end]], minlength=count)
        if p_value(predicted, false, target) > delta:
            break
        chosen, start = threshold, end
    return chosen


def _sequence(ranked: Floats, target: float, delta: float) -> Iterator[tuple[int, float]]:
    """Yield the number of triples and the threshold of each test. Both depend on the probabilities alone."""
    size = float(ceil(HEAD_START * log(delta) / log(target)))
    end = 0
    while end < len(ranked) and size <= len(ranked):
        end = max(int(size), end + 1)
        # Equal probabilities are predicted together.
        end = int(np.searchsorted(-ranked, -ranked[end - 1], side="right"))
        lower = float(ranked[end]) if end < len(ranked) else 0.0
        yield end, (float(ranked[end - 1]) + lower) / 2
        size = max(size, float(end)) * GROWTH


def p_value(predicted: Floats, false: Floats, target: float) -> float:
    """Return the p-value of the hypothesis that the precision is below `target`.

    It is the larger one of two: the exact binomial test, for a few triples; and the normal test of the mean risk of a
    document, because the errors of a document depend on each other. It is exact for independent errors and
    asymptotically valid in the number of documents otherwise.

    Args:
        predicted: predicted triples of each document, [documents].
        false: those that are wrong, [documents].
    """
    triples, errors = int(predicted.sum()), int(false.sum())
    risk = false - (1.0 - target) * predicted
    count = len(risk)
    spread = float(((risk - risk.mean()) ** 2).sum()) * count / max(count - 1, 1)
    # Variance of the total risk: never below that of independent errors at the target.
    variance = max(spread, triples * target * (1.0 - target))
    normal = NormalDist().cdf(float(risk.sum()) / sqrt(variance))
    return max(normal, _at_most(errors, triples, 1.0 - target))


def _at_most(errors: int, triples: int, rate: float) -> float:
    """Return the probability of at most `errors` errors in `triples` independent triples."""
    numbers = np.arange(errors, dtype=np.float64)
    ratios = np.log((triples - numbers) / (numbers + 1)) + log(rate / (1.0 - rate))
    logs = triples * log(1.0 - rate) + np.concatenate([[0.0], np.cumsum(ratios)])
    top = float(logs.max())
    return min(1.0, exp(top) * float(np.exp(logs - top).sum()))


def share_of_misses(
    probabilities: Floats, correct: Bools, document: Ints, targets: Sequence[float], splits: int, seed: int = 66
) -> dict[float, str]:
    """Return, for each precision, how often a threshold from random halves of the documents misses it on the others.

    The precision on the other half varies too, so that a share somewhat above `DELTA` is no fault.

    Returns:
        "misses/splits with a threshold" by precision.
    """
    count = int(document.max()) + 1
    draw = np.random.default_rng(seed)
    missed, held = dict.fromkeys(targets, 0), dict.fromkeys(targets, 0)
    for _ in range(splits):
        chosen = np.zeros(count, dtype=np.bool_)
        chosen[draw.permutation(count)[: count // 2]] = True
        inside = chosen[document]
        for target, threshold in certified_thresholds(
            probabilities[inside], correct[inside], document[inside], targets
        ):
            predicted = (probabilities >= threshold) & ~inside
            held[target] += 1
            missed[target] += bool(predicted.any()) and float(correct[predicted].mean()) < target
    return {target: f"{missed[target]}/{held[target]}" for target in targets}
