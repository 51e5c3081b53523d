from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmrc.rcp.metrics import binary_scores


def test_scores_by_hand() -> None:
    # At 0.5: 4 proposed, 2 correct, 3 gold.
    scores = binary_scores(np.array([0.9, 0.8, 0.6, 0.5, 0.3, 0.1]), np.array([1, 0, 1, 0, 1, 0], dtype=bool))
    assert scores["precision"] == 50.0
    assert scores["recall"] == pytest.approx(200 / 3)
    assert scores["f1"] == pytest.approx(100 * 4 / 7)
    # Recall increases at ranks 1, 3, 5 with precision 1, 2/3, 3/5.
    assert scores["average_precision"] == pytest.approx(100 * (1 + 2 / 3 + 3 / 5) / 3)
    # At 0.3: 3 of 5 correct, F1 6/8.
    assert (scores["best_f1"], scores["best_threshold"]) == (75.0, 0.3)


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=40))
def test_scores_at_every_threshold(pairs: list[tuple[int, bool]]) -> None:
    probabilities, gold = np.array([p / 8 for p, _ in pairs]), np.array([g for _, g in pairs])
    scores = binary_scores(probabilities, gold)
    total, recall_before, area, best = sum(gold), 0.0, 0.0, 0.0
    for threshold in sorted(set(probabilities), reverse=True):
        kept = [g for p, g in zip(probabilities, gold, strict=True) if p >= threshold]
        if total:
            precision, recall = sum(kept) / len(kept), sum(kept) / total
            area += (recall - recall_before) * precision
            recall_before = recall
            if precision + recall:
                best = max(best, 2 * precision * recall / (precision + recall))
    assert scores["average_precision"] == pytest.approx(100 * area)
    assert scores["best_f1"] == pytest.approx(100 * best)
    at_best = binary_scores(np.where(probabilities >= scores["best_threshold"], 1.0, 0.0), gold)
    assert at_best["f1"] == pytest.approx(scores["best_f1"])


def test_without_gold_or_pairs() -> None:
    for size in (0, 3):
        scores = binary_scores(np.full(size, 0.9), np.zeros(size, dtype=bool))
        assert {scores[name] for name in ("precision", "recall", "f1", "average_precision", "best_f1")} == {0.0}
