"""Pairs that the LM is asked about: those whose answer it could change, because the encoder is unsure of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from lmrc.fusion.evidence import Bools, Evidence, Floats, log_odds, probability
from lmrc.fusion.f1 import f1_score
from lmrc.fusion.model import pairs_in_band

# Bounds of bands that are tried: this many below and above the threshold, in equal steps of log-odds.
STEPS = 40
# Largest distance of a bound from the threshold, in log-odds. The band [0, 1] is tried in any case.
FARTHEST = 8.0
# Points of a curve.
POINTS = 21


class Point(NamedTuple):
    """F1 in percent if the LM is asked about the pairs of a band, and the share of pairs and questions asked."""

    low: float
    high: float
    share: float
    questions: int
    f1: float


@dataclass(frozen=True, eq=False)
class Held:
    """Labeled questions with both probabilities.

    Attributes:
        with_lm: probability with the LM; only read for pairs that it is asked about, [questions].
        without_lm: probability without the LM, [questions].
        correct: True if the triple is gold, [questions].
        asks: True if the LM is asked this question if it is asked about its pair, [questions].
        gold: number of gold triples, including those that are no question.
        threshold: least probability of a triple.
    """

    evidence: Evidence
    with_lm: Floats
    without_lm: Floats
    correct: Bools
    asks: Bools
    gold: int
    threshold: float

    def point(self, low: float, high: float) -> Point:
        """Return F1 and cost of a band."""
        asked = pairs_in_band(self.without_lm, self.evidence, (low, high))
        return self._point(low, high, asked)

    def bands(self) -> list[Point]:
        """Return all bands around the threshold of a grid, and the band [0, 1], which asks about every pair."""
        center = float(log_odds(np.array([self.threshold]))[0])
        distances = np.linspace(0.0, FARTHEST, STEPS + 1)
        lows = [*probability(center - distances).tolist(), 0.0]
        highs = [*probability(center + distances).tolist(), 1.0]
        pair = self.evidence.pair
        points = []
        for low in lows:
            above = self.without_lm >= low
            # Least probability of a pair that is at least `low`: the pair is in the band if it is at most `high`.
            nearest = np.full(self.evidence.pairs, np.inf)
            np.minimum.at(nearest, pair[above], self.without_lm[above])
            points += [self._point(low, high, nearest <= high) for high in highs]
        return points

    def _point(self, low: float, high: float, asked: Bools) -> Point:
        with_lm, without_lm, questions = self._counts
        changed = np.where(asked, with_lm, without_lm).sum(axis=1)
        share = float(asked.mean()) if len(asked) else 0.0
        f1 = f1_score(int(changed[0]), int(changed[1]), self.gold)
        return Point(low, high, share, int(questions[asked].sum()), f1)

    @cached_property
    def _counts(self) -> tuple[Floats, Floats, Floats]:
        """Return correct and predicted triples with and without LM, [2, pairs], and questions, [pairs]."""
        pair, pairs = self.evidence.pair, self.evidence.pairs

        def per_pair(probabilities: Floats) -> Floats:
            predicted = probabilities >= self.threshold
            parts = [np.bincount(pair[part], minlength=pairs) for part in (predicted & self.correct, predicted)]
            return np.array(parts, dtype=np.float64)

        questions = np.bincount(pair[self.asks], minlength=pairs).astype(np.float64)
        return per_pair(self.with_lm), per_pair(self.without_lm), questions


def cheapest_band(points: Sequence[Point], max_loss: float) -> Point:
    """Return the band with the fewest pairs that loses at most `max_loss` F1 compared with asking about all pairs."""
    all_pairs = next(point for point in points if (point.low, point.high) == (0.0, 1.0))
    enough = [point for point in points if point.f1 >= all_pairs.f1 - max_loss - 1e-9]
    return min(enough, key=lambda point: (point.share, -point.f1))


def curve(held: Held, band: tuple[float, float], center: float) -> list[Point]:
    """Return F1 over the pairs asked, for bands that grow from `center` to `band`, in log-odds and in growing steps.

    Only the LM's answers in `band` are read.
    """
    start, low, high = log_odds(np.array([center, *band])).tolist()
    points = []
    for part in (np.linspace(0.0, 1.0, POINTS) ** 2).tolist():
        if part == 1.0:
            bounds = band
        else:
            values = probability(np.array([start + part * (low - start), start + part * (high - start)]))
            bounds = (float(values[0]), float(values[1]))
        points.append(held.point(*bounds))
    return points
