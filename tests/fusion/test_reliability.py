from __future__ import annotations

from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmrc.fusion.reliability import BINS, Bin, negative_log_likelihood, reliability


@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans()), min_size=1, max_size=60), st.integers(1, 20))
def test_slow_calibration_error(rows: list[tuple[float, bool]], bins: int) -> None:
    found = reliability(np.array([row[0] for row in rows]), np.array([row[1] for row in rows]), bins)
    ranked = sorted(rows, key=lambda row: row[0])
    error, start = 0.0, 0
    for number in range(bins):
        # The first bins get one question more.
        size = len(rows) // bins + (number < len(rows) % bins)
        part = ranked[start : start + size]
        start += size
        if part:
            error += abs(sum(p for p, _ in part) - sum(right for _, right in part)) / len(rows)
    assert found.ece == pytest.approx(error)
    assert sum(one.questions for one in found.bins) == len(rows)
    assert max(one.questions for one in found.bins) - min(one.questions for one in found.bins) <= 1
    assert [one.probability for one in found.bins] == pytest.approx(sorted(one.probability for one in found.bins))


def test_calibrated_questions_have_a_small_error() -> None:
    draw = np.random.default_rng(1)
    values = draw.random(60_000)
    assert len(reliability(values, draw.random(60_000) < values).bins) == BINS
    assert reliability(values, draw.random(60_000) < values).ece < 0.01
    assert reliability(values, draw.random(60_000) < values**2).ece == pytest.approx(1 / 2 - 1 / 3, abs=0.01)


def test_no_question() -> None:
    assert reliability(np.zeros(0), np.zeros(0, dtype=bool)).bins == ()
    assert reliability(np.array([0.25]), np.array([True])).bins == (Bin(0.25, 1.0, 1),)


def test_negative_log_likelihood() -> None:
    found = negative_log_likelihood(np.array([0.25, 0.25, 1.0]), np.array([True, False, True]))
    assert found == pytest.approx(-(log(0.25) + log(0.75)) / 3)
    assert negative_log_likelihood(np.array([0.0]), np.array([True])) == pytest.approx(-log(1e-6))
