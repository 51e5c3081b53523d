from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lmrc.fusion.ask import POINTS, Held, Point, cheapest_band, curve
from lmrc.fusion.f1 import best_f1
from lmrc.fusion.fit import Labeled, cross_fitted
from tests.fusion.examples import labeled


def held(source: Labeled) -> Held:
    with_lm, without_lm = cross_fitted(source)
    threshold = best_f1(with_lm, source.correct, source.gold).threshold
    # The LM is not asked every fourth question.
    asks = np.arange(len(source.evidence)) % 4 > 0
    return Held(source.evidence, with_lm, without_lm, source.correct, asks, source.gold, threshold)


@pytest.fixture(scope="module")
def example() -> Held:
    return held(labeled(200))


def slow_point(held: Held, low: float, high: float) -> Point:
    """Go through pairs and questions one by one."""
    evidence = held.evidence
    by_pair: dict[int, list[int]] = {pair: [] for pair in range(evidence.pairs)}
    for question, pair in enumerate(evidence.pair.tolist()):
        by_pair[pair].append(question)
    asked = questions = right = predicted = 0
    for members in by_pair.values():
        ask = any(low <= held.without_lm[question] <= high for question in members)
        asked += ask
        questions += sum(bool(held.asks[member]) for member in members) if ask else 0
        for question in members:
            probability = held.with_lm[question] if ask else held.without_lm[question]
            if probability >= held.threshold:
                predicted += 1
                right += bool(held.correct[question])
    f1 = 200 * right / (predicted + held.gold)
    return Point(low, high, asked / evidence.pairs, questions, f1)


def test_points_are_counted(example: Held) -> None:
    points = example.bands()
    for point in [*points[:: len(points) // 12], points[-1]]:
        assert point == pytest.approx(slow_point(example, point.low, point.high))
    assert example.point(0.1, 0.7) == pytest.approx(slow_point(example, 0.1, 0.7))


def test_all_pairs_and_none(example: Held) -> None:
    asked_all = example.point(0.0, 1.0)
    assert (asked_all.share, asked_all.questions) == (1.0, len(example.evidence) * 3 / 4)
    assert asked_all.f1 == pytest.approx(best_f1(example.with_lm, example.correct, example.gold).f1)
    assert asked_all in example.bands()


def test_cheapest_band(example: Held) -> None:
    points = example.bands()
    chosen = cheapest_band(points, 0.2)
    best = example.point(0.0, 1.0).f1
    assert chosen.f1 >= best - 0.2 and chosen.share < 0.7
    assert chosen.low < example.threshold < chosen.high
    assert not [point for point in points if point.share < chosen.share and point.f1 >= best - 0.2]
    # With nothing to lose, the band is wider; with everything to lose, nobody is asked.
    assert cheapest_band(points, 0.0).share >= chosen.share
    assert cheapest_band(points, 100.0).share < 0.01


def test_lm_that_knows_nothing_is_not_asked() -> None:
    source = labeled(60, seed=2)
    example = held(source)
    useless = replace(example, with_lm=example.without_lm)
    assert cheapest_band(useless.bands(), 0.0).share < 0.01


def test_curve(example: Held) -> None:
    points = curve(example, (0.0, 1.0), example.threshold)
    assert len(points) == POINTS
    assert points[-1] == example.point(0.0, 1.0)
    assert [point.share for point in points] == sorted(point.share for point in points)
    assert points[0].share < 0.01 and points[-1].f1 > points[0].f1 + 1


def test_curve_reads_no_answer_outside_its_band(example: Held) -> None:
    band = (0.1, 0.8)
    outside = ~np.isin(
        example.evidence.pair, example.evidence.pair[(example.without_lm >= band[0]) & (example.without_lm <= band[1])]
    )
    with_lm = example.with_lm.copy()
    with_lm[outside] = np.nan
    partly = replace(example, with_lm=with_lm)
    assert curve(partly, band, example.threshold) == curve(example, band, example.threshold)
    assert curve(partly, band, example.threshold)[-1] == example.point(*band)
