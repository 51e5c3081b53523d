from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmrc.fusion.f1 import best_f1, f1_score


@given(
    st.lists(st.tuples(st.sampled_from([0.05, 0.1, 0.2, 0.4, 0.4000001, 0.9]), st.booleans()), min_size=1, max_size=30),
    st.integers(0, 5),
)
def test_no_threshold_is_better(rows: list[tuple[float, bool]], missed: int) -> None:
    """The slow way: count at every threshold."""
    probabilities, correct = [row[0] for row in rows], [row[1] for row in rows]
    gold = sum(correct) + missed

    def f1(threshold: float) -> float:
        kept = [right for value, right in rows if value >= threshold]
        precision = sum(kept) / len(kept) if kept else 0.0
        recall = sum(kept) / gold if gold else 0.0
        return 200 * precision * recall / (precision + recall) if precision else 0.0

    found = best_f1(np.array(probabilities), np.array(correct), gold)
    assert found.f1 == pytest.approx(max(map(f1, probabilities)))
    assert f1(found.threshold) == pytest.approx(found.f1)
    assert found.threshold not in probabilities or not any(correct)


def test_nothing_is_correct() -> None:
    assert best_f1(np.array([0.9]), np.array([False]), 3) == (0.5, 0.0)
    assert best_f1(np.zeros(0), np.zeros(0, dtype=bool), 0) == (0.5, 0.0)
    assert f1_score(0, 0, 0) == 0.0
    assert f1_score(1, 2, 2) == 50.0
