from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrc.fusion.ask import Held
from lmrc.fusion.evidence import probability
from lmrc.fusion.fit import FOLDS, Labeled, cross_fitted, fit, folds, logistic_regression
from lmrc.fusion.model import Fusion
from tests.fusion.examples import WITH_LM, labeled


def slow_regression(features: list[np.ndarray], correct: np.ndarray) -> list[float]:
    """Gradient descent with a small, fixed step."""
    rows = np.column_stack([np.ones(len(correct)), *features])
    weights = np.zeros(rows.shape[1])
    for _ in range(20_000):
        gradient = rows.T @ (1 / (1 + np.exp(-rows @ weights)) - correct) / len(correct)
        weights -= 0.3 * gradient
    return list(weights)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000))
def test_newton_finds_what_gradient_descent_finds(seed: int) -> None:
    draw = np.random.default_rng(seed)
    features = [draw.normal(size=300), draw.normal(size=300)]
    correct = draw.random(300) < probability(0.3 + features[0] - 0.5 * features[1])
    assert logistic_regression(features, correct) == pytest.approx(slow_regression(features, correct), abs=1e-4)


def test_separable_classes_have_finite_weights() -> None:
    feature = np.concatenate([np.full(50, -3.0), np.full(50, 3.0)])
    bias, weight = logistic_regression([feature], feature > 0)
    assert abs(bias) < 1e-6 and 1 < weight < 20


def test_a_constant_feature_is_no_error() -> None:
    weights = logistic_regression([np.zeros(100)], np.arange(100) % 4 == 0)
    assert weights == pytest.approx([np.log(1 / 3), 0.0], abs=1e-4)


def test_weights_are_found() -> None:
    fusion = fit(labeled(400), "a", "b").fusion
    weights = fusion.with_lm
    assert (weights.bias, weights.pair, weights.relation, weights.lm) == pytest.approx(WITH_LM, abs=0.06)


def test_folds_are_of_documents_and_equal() -> None:
    fold = folds(103)
    assert sorted(np.bincount(fold).tolist()) == [20, 20, 21, 21, 21] and len(np.bincount(fold)) == FOLDS
    assert fold.tolist() == folds(103).tolist()


def test_a_document_has_no_influence_on_its_own_scores() -> None:
    source = labeled(40)
    document = source.evidence.document
    changed = replace(source, correct=np.where(document == 7, ~source.correct, source.correct))
    same_fold = folds(40)[document] == folds(40)[7]
    for before, after in zip(cross_fitted(source), cross_fitted(changed), strict=True):
        assert (before[same_fold] == after[same_fold]).all()
        assert (before[~same_fold] != after[~same_fold]).all()


@pytest.mark.filterwarnings("error")
def test_questions_that_the_lm_was_not_asked(source: Labeled) -> None:
    """They get the probability without LM, and have no influence on the weights with LM."""
    asks = np.arange(len(source.evidence)) % 3 > 0
    partly = replace(
        source, evidence=replace(source.evidence, lm_logit=np.where(asks, source.evidence.lm_logit, np.nan))
    )
    with_lm, without_lm = cross_fitted(partly)
    assert (with_lm[~asks] == without_lm[~asks]).all() and (with_lm[asks] != without_lm[asks]).all()
    assert (without_lm == cross_fitted(source)[1]).all()
    flipped = replace(partly, correct=np.where(asks, source.correct, ~source.correct))
    found = fit(partly, "a", "b")
    assert fit(flipped, "a", "b").fusion.with_lm == found.fusion.with_lm
    weights = found.fusion.with_lm
    assert (weights.bias, weights.pair, weights.relation, weights.lm) == pytest.approx(WITH_LM, abs=0.1)
    assert found.curve[-1].questions == asks.sum()
    alone = {estimate.name: estimate for estimate in found.estimates}
    assert alone["LM"].f1 < fit(source, "a", "b").estimates[1].f1 and alone["fused"].ece < 0.01


@pytest.fixture(scope="module")
def source() -> Labeled:
    return labeled(300, missed=2)


def test_estimates(source: Labeled) -> None:
    found = fit(source, "a", "b")
    by_name = {estimate.name: estimate for estimate in found.estimates}
    assert list(by_name) == ["RCP's relation head", "LM", "encoder", "fused", "fused, in the band"]
    # The fusion is better than its parts, and calibrated.
    fused = by_name["fused"]
    for name in ("RCP's relation head", "LM", "encoder"):
        assert fused.nll < by_name[name].nll and fused.f1 > by_name[name].f1
    assert fused.ece < 0.01 < by_name["LM"].ece
    assert by_name["encoder"].ece < 0.01
    with_lm, _ = cross_fitted(source)
    predicted = with_lm >= fused.threshold
    right = int((predicted & source.correct).sum())
    # Gold triples that are no question count as missed.
    assert fused.f1 == pytest.approx(200 * right / (int(predicted.sum()) + source.gold))
    assert source.gold == int(source.correct.sum()) + 2 * 300


def test_band_and_thresholds(source: Labeled) -> None:
    found = fit(source, "a", "b", max_loss=0.2)
    by_name = {estimate.name: estimate for estimate in found.estimates}
    assert by_name["fused, in the band"].f1 == pytest.approx(found.band.f1)
    assert found.band.f1 >= by_name["fused"].f1 - 0.2
    assert found.fusion.band == (found.band.low, found.band.high)
    assert fit(source, "a", "b", max_loss=1.0).band.share < found.band.share
    thresholds = found.fusion.thresholds
    assert thresholds["band"].f1 == thresholds["all"].f1 == by_name["fused"].threshold
    assert thresholds["none"].f1 == by_name["encoder"].threshold
    # The LM is worth something at each precision, so the threshold can be lower with it.
    assert found.fusion.threshold("all", 0.8) < found.fusion.threshold("none", 0.8)
    assert found.curve[-1].f1 == pytest.approx(by_name["fused"].f1)


def test_recorded_inputs(source: Labeled) -> None:
    fusion = fit(source, "corpus", "relations", tokens_per_question=12.5).fusion
    assert isinstance(fusion, Fusion)
    assert fusion.fitted_on.model_dump() == {
        "corpus_fingerprint": "corpus",
        "relations_sha256": "relations",
        "documents": 300,
        "questions": len(source.evidence),
        "positives": int(source.correct.sum()),
        "gold": source.gold,
    }
    assert fusion.tokens_per_question == 12.5
    assert fit(source, "corpus", "relations", tokens_per_question=12.5).fusion == fusion


def test_the_band_of_the_fusion_is_that_of_the_estimate(source: Labeled) -> None:
    fusion = fit(source, "a", "b").fusion
    without = probability(fusion.without_lm.log_odds(source.evidence))
    scores = fusion.probabilities(source.evidence)
    asks = np.ones(len(scores), dtype=bool)
    held = Held(source.evidence, scores, without, source.correct, asks, source.gold, fusion.threshold("band"))
    assert held.point(*fusion.band).share == pytest.approx(fusion.in_band(source.evidence).mean())
