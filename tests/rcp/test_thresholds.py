from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmrc.common.errors import UserError
from lmrc.config.schema import ProposeConfig
from lmrc.rcp.thresholds import (
    FILE,
    MIN_LOGIT,
    calibrate,
    calibrate_relations,
    find_relation_threshold,
    find_threshold,
    save,
)

PAIRS = st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=60).filter(
    lambda pairs: any(gold for _, gold in pairs)
)


def scores(pairs: list[tuple[float, bool]], threshold: float) -> tuple[float, float]:
    """Return recall and F1 in [0, 1] of the pairs at or above the threshold, counted one by one."""
    kept = [gold for probability, gold in pairs if probability >= threshold]
    total = sum(gold for _, gold in pairs)
    return sum(kept) / total, 2 * sum(kept) / (len(kept) + total)


@given(PAIRS, st.integers(1, 1000))
def test_threshold_for_a_recall_is_the_highest_that_reaches_it(drawn: list[tuple[int, bool]], thousandths: int) -> None:
    pairs = [(step / 41, gold) for step, gold in drawn]
    calibration = calibrate(np.array([p for p, _ in pairs]), np.array([gold for _, gold in pairs]))
    target = thousandths / 1000
    threshold = next(point[1] for point in calibration["curve"] if point[0] >= 100 * target - 1e-9)
    assert scores(pairs, threshold)[0] >= target - 1e-9
    lowest = min(p for p, _ in pairs if p >= threshold)
    # Without the least probable pair the recall is too low.
    assert scores(pairs, np.nextafter(lowest, 1))[0] < target - 1e-12
    best = max(scores(pairs, p)[1] for p, _ in pairs)
    assert scores(pairs, calibration["f1"][0])[1] == pytest.approx(best)
    assert calibration["f1"][1] == pytest.approx(100 * best)


def test_thresholds_lie_between_probabilities() -> None:
    """Rounding errors on another device therefore change no candidate."""
    calibration = calibrate(np.array([0.9, 0.6, 0.2]), np.array([True, True, False]))
    assert calibration["f1"] == [pytest.approx(0.4), 100.0]
    assert [point[:2] for point in calibration["curve"]] == [
        [50.0, pytest.approx(0.75)],
        [100.0, pytest.approx(0.4)],
    ]


def test_find_threshold(tmp_path: Path) -> None:
    save(tmp_path, calibrate(np.array([0.9, 0.6, 0.2]), np.array([True, True, False])))
    assert find_threshold(tmp_path, "0.25") == 0.25
    assert find_threshold(tmp_path, "f1") == pytest.approx(0.4)
    assert find_threshold(tmp_path, "recall=0.5") == pytest.approx(0.75)
    assert find_threshold(tmp_path, "recall=0.51") == pytest.approx(0.4)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(UserError, match="damaged"):
        find_threshold(tmp_path, "f1")
    (tmp_path / FILE).unlink()
    with pytest.raises(UserError, match=r"no calibration\.json, which training writes"):
        find_threshold(tmp_path, "recall=0.9")
    assert find_threshold(tmp_path, "0") == 0
    save(tmp_path, calibrate(np.array([0.9]), np.array([False])))
    with pytest.raises(UserError, match="without gold pairs"):
        find_threshold(tmp_path, "recall=0.9")


@given(st.lists(st.tuples(st.integers(-46, 40), st.booleans()), max_size=40), st.integers(0, 5))
def test_threshold_of_relations(drawn: list[tuple[int, bool]], missing: int) -> None:
    """It gives the best F1 of all thresholds, `missing` gold triples included, and finds none below `MIN_LOGIT`."""
    logits, gold = np.array([tenths / 10 for tenths, _ in drawn], np.float32), np.array([g for _, g in drawn], bool)
    threshold, f1 = calibrate_relations(logits, gold, missing)["f1"]
    total = sum(gold) + missing
    probabilities = [1 / (1 + np.exp(-float(logit))) for logit in logits]

    def f1_at(least: float) -> float:
        kept = [is_gold for p, is_gold in zip(probabilities, gold, strict=True) if p >= least]
        return 200 * sum(kept) / (len(kept) + total) if sum(kept) else 0.0

    assert f1 == pytest.approx(max(map(f1_at, probabilities), default=0.0))
    assert f1_at(threshold) == pytest.approx(f1)
    assert threshold >= 1 / (1 + np.exp(-MIN_LOGIT))
    if not drawn or not total:
        assert (threshold, f1) == (0.5, 0.0)


def test_find_relation_threshold(tmp_path: Path) -> None:
    logits, gold = np.array([2.0, 1.0, -1.0, -3.0], dtype=np.float32), np.array([True, True, False, False])
    calibration = calibrate(np.array([0.9, 0.2]), np.array([True, False]))
    save(tmp_path, {**calibration, "relations": calibrate_relations(logits, gold, 1)})
    between = (1 / (1 + np.exp(-1)) + 1 / (1 + np.exp(1))) / 2
    assert find_relation_threshold(tmp_path, "f1") == pytest.approx(between)
    assert find_relation_threshold(tmp_path, "0.25") == 0.25
    assert find_threshold(tmp_path, "f1") == pytest.approx(0.55)
    # A model without a head, a damaged file, no file.
    damaged = (json.dumps(calibration), json.dumps({"relations": {"f1": []}}), json.dumps({"relations": None}), "{")
    for content in damaged:
        (tmp_path / FILE).write_text(content)
        with pytest.raises(UserError, match=r"no threshold of the relation head.*--relation-threshold 0\.5, or train"):
            find_relation_threshold(tmp_path, "f1")
    (tmp_path / FILE).unlink()
    with pytest.raises(UserError, match="no threshold of the relation head"):
        find_relation_threshold(tmp_path, "f1")
    assert find_relation_threshold(tmp_path, "1") == 1.0


@pytest.mark.parametrize("threshold", [0, 0.5, 1, "0.3", "f1"])
def test_valid_relation_thresholds(threshold: object) -> None:
    assert ProposeConfig.model_validate({"relation_threshold": threshold}).relation_threshold == str(threshold)


@pytest.mark.parametrize("threshold", [-0.1, 1.5, "f2", "recall=0.9", "nan", ""])
def test_invalid_relation_thresholds(threshold: object) -> None:
    with pytest.raises(ValueError, match=r"neither a probability such as 0\.5, nor f1 \["):
        ProposeConfig.model_validate({"relation_threshold": threshold})


@pytest.mark.parametrize("threshold", [0, 0.5, 1, "0.3", "1e-3", "f1", "recall=0.9", "recall=1"])
def test_valid_thresholds(threshold: object) -> None:
    assert ProposeConfig.model_validate({"threshold": threshold}).threshold == str(threshold)


@pytest.mark.parametrize("threshold", [-0.1, 1.5, "f2", "recall=", "recall=1.2", "recall=high", "nan", ""])
def test_invalid_thresholds(threshold: object) -> None:
    with pytest.raises(ValueError, match=r"neither a probability such as 0\.5, nor f1, nor a recall"):
        ProposeConfig.model_validate({"threshold": threshold})
