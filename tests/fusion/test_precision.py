from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmrc.fusion.fit import cross_fitted, fit
from lmrc.fusion.precision import DELTA, certified_thresholds, p_value
from tests.fusion.examples import labeled, of_documents


@given(st.integers(1, 60), st.data(), st.sampled_from([0.5, 0.8, 0.9, 0.99]))
def test_exact_binomial_test_of_independent_errors(triples: int, data: st.DataObject, target: float) -> None:
    """A document per triple: the p-value is at least that of the exact test, in rational numbers."""
    errors = data.draw(st.integers(0, triples))
    false = np.zeros(triples)
    false[:errors] = 1
    rate = 1 - Fraction(target)
    exact = sum(comb(triples, k) * rate**k * (1 - rate) ** (triples - k) for k in range(errors + 1))
    found = p_value(np.ones(triples), false, target)
    assert float(exact) - 1e-9 <= found <= 1
    if target == 0.99:
        assert found == pytest.approx(float(exact), rel=1e-6)


def test_errors_in_few_documents_count_as_dependent() -> None:
    """The same errors are less evidence if they come in clusters."""
    predicted = np.full(100, 10.0)
    spread, clustered = np.full(100, 0.0), np.zeros(100)
    spread[:75] = 1
    clustered[:8], clustered[8] = 9, 3
    assert spread.sum() == clustered.sum() == 75
    assert p_value(predicted, spread, 0.9) < 0.01 < DELTA < p_value(predicted, clustered, 0.9)


def test_p_value_of_the_normal_test() -> None:
    """The slow way, by the mean and the standard error of the risk."""
    draw = np.random.default_rng(0)
    predicted = draw.integers(0, 20, 400).astype(float)
    false = np.array([draw.binomial(int(n), min(1.0, draw.gamma(0.1, 0.7))) for n in predicted]).astype(float)
    risk = [f - (1 - 0.9) * n for f, n in zip(false, predicted, strict=True)]
    mean = sum(risk) / 400
    error = (sum((one - mean) ** 2 for one in risk) / 399 / 400) ** 0.5
    steps = np.linspace(-12, mean / error, 200_001)
    slow = np.trapezoid(np.exp(-(steps**2) / 2), steps) / np.sqrt(2 * np.pi)
    assert p_value(predicted, false, 0.9) == pytest.approx(float(slow), rel=1e-3)


def precision_of(probabilities: np.ndarray, correct: np.ndarray, threshold: float) -> float:
    predicted = probabilities >= threshold
    return float(correct[predicted].mean()) if predicted.any() else 1.0


def test_thresholds_hold_their_precision_on_the_documents_themselves() -> None:
    held = labeled(300, seed=3)
    probabilities, _ = cross_fitted(held)
    table = certified_thresholds(probabilities, held.correct, held.evidence.document)
    assert [target for target, _ in table] == sorted(target for target, _ in table)
    assert len(table) > 20
    for target, threshold in table:
        assert precision_of(probabilities, held.correct, threshold) >= target
        assert threshold not in probabilities


def test_order_of_questions_does_not_matter() -> None:
    held = labeled(100, seed=4)
    probabilities, _ = cross_fitted(held)
    order = np.random.default_rng(0).permutation(len(probabilities))
    arguments = (probabilities, held.correct, held.evidence.document)
    assert certified_thresholds(*arguments) == certified_thresholds(*(column[order] for column in arguments))


def test_too_few_questions_certify_nothing() -> None:
    ones = np.ones(50, dtype=bool)
    document = np.arange(50, dtype=np.int32)
    values = np.linspace(0.9, 1.0, 50)
    assert certified_thresholds(values, ones, document, (0.9,)) == ()
    assert [target for target, _ in certified_thresholds(values, ones, document, (0.5, 0.99))] == [0.5]
    assert certified_thresholds(np.zeros(0), np.zeros(0, dtype=bool), np.zeros(0, dtype=np.int32)) == ()


def test_equal_probabilities_are_predicted_together() -> None:
    """200 right triples are followed by 400 of one probability, of which half are wrong."""
    values = np.concatenate([np.linspace(0.8, 0.9, 200), np.full(400, 0.5)])
    correct = np.concatenate([np.ones(200, dtype=bool), np.arange(400) % 2 == 0])
    document = np.arange(600, dtype=np.int32) % 150
    ((_, threshold),) = certified_thresholds(values, correct, document, (0.9,))
    assert 0.5 < threshold < 0.82


@pytest.mark.slow
@pytest.mark.parametrize("document_effect", [0.0, 1.0])
def test_share_of_splits_below_the_precision(document_effect: float) -> None:
    """In 200 random splits, at most delta of the thresholds miss the precision on the other documents.

    The share itself varies by 2.1 percentage points (one standard deviation).
    """
    whole = labeled(3000, seed=5, document_effect=document_effect)
    probabilities, _ = cross_fitted(whole)
    draw = np.random.default_rng(6)
    missed = {0.8: 0, 0.9: 0}
    lengths = {target: 0 for target in missed}
    for _ in range(200):
        fitted = np.zeros(3000, dtype=bool)
        fitted[draw.permutation(3000)[:200]] = True
        inside = fitted[whole.evidence.document]
        table = certified_thresholds(
            probabilities[inside], whole.correct[inside], whole.evidence.document[inside], tuple(missed)
        )
        for target, threshold in table:
            lengths[target] += 1
            missed[target] += precision_of(probabilities[~inside], whole.correct[~inside], threshold) < target
    for target, count in missed.items():
        assert lengths[target] >= 190
        assert count / 200 <= DELTA + 2 * 0.021
    # Not so cautious that the test is empty.
    assert sum(missed.values()) > 0


@pytest.mark.slow
def test_fitted_fusion_holds_its_precision_on_other_documents() -> None:
    """As above, but weights, band and table are fitted on each split: 30 splits, so that 7 misses are improbable."""
    whole = labeled(1000, seed=8)
    draw = np.random.default_rng(9)
    missed = 0
    for _ in range(30):
        order = draw.permutation(1000)
        fusion = fit(of_documents(whole, order[:150]), "a", "b").fusion
        others = of_documents(whole, order[150:])
        asked = fusion.in_band(others.evidence)[others.evidence.pair]
        unasked = np.where(asked, others.evidence.lm_logit, np.nan)
        probabilities = fusion.probabilities(replace(others.evidence, lm_logit=unasked))
        missed += precision_of(probabilities, others.correct, fusion.threshold("band", 0.8)) < 0.8
    assert missed <= 7
