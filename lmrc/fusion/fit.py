"""Fit of a fusion on held-out training documents: weights, threshold, band, and the table of precisions.

Every probability that a threshold or a figure depends on is cross-fitted: its weights were fitted on other documents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from lmrc.fusion.ask import Held, Point, cheapest_band, curve
from lmrc.fusion.evidence import Bools, Evidence, Floats, probability
from lmrc.fusion.f1 import best_f1, f1_score
from lmrc.fusion.model import Asked, EncoderWeights, FittedOn, Fusion, LmWeights, Thresholds, pairs_in_band
from lmrc.fusion.precision import certified_thresholds
from lmrc.fusion.reliability import negative_log_likelihood, reliability

FOLDS = 5
# Seed of the assignment of documents to folds.
SEED = 66
# Weight of the squared weights, per question. It keeps them finite if the classes can be separated.
RIDGE = 1e-6
MAX_STEPS = 100
# Newton's method stops if no weight changes by more than this.
TOLERANCE = 1e-10

Weights = TypeVar("Weights", bound=EncoderWeights)


@dataclass(frozen=True, slots=True, eq=False)
class Labeled:
    """Questions of held-out documents with their answers.

    Attributes:
        evidence: the questions; the LM was asked about all pairs.
        correct: True if the triple is gold, [questions].
        documents: number of documents.
        gold: number of gold triples, including those that are no question.
    """

    evidence: Evidence
    correct: Bools
    documents: int
    gold: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """Cross-fitted scores of a way to score questions.

    Attributes:
        nll: mean negative log likelihood.
        ece: expected calibration error.
        f1: F1 in percent at `threshold`, over all gold triples.
    """

    name: str
    nll: float
    ece: float
    threshold: float
    f1: float


@dataclass(frozen=True, slots=True)
class Fit:
    """A fusion, and what is expected of it on other documents.

    Attributes:
        estimates: of each part alone, and of the fusion.
        band: share of pairs asked, and F1, with the band of the fusion.
        curve: F1 over the pairs asked.
    """

    fusion: Fusion
    estimates: tuple[Estimate, ...]
    band: Point
    curve: tuple[Point, ...]


def fit(
    labeled: Labeled,
    corpus_fingerprint: str,
    relations_sha256: str,
    max_loss: float = 0.2,
    tokens_per_question: float | None = None,
) -> Fit:
    """Fit a fusion.

    Args:
        max_loss: most F1, in percent, that the band may lose compared with asking about all pairs.
        tokens_per_question: LM tokens of a question, for the curve; None if they are not known.
    """
    evidence, correct, gold = labeled.evidence, labeled.correct, labeled.gold
    with_lm, without_lm = cross_fitted(labeled)
    asks = ~np.isnan(evidence.lm_logit)
    alone = {
        "RCP's relation head": probability(evidence.relation_logit),
        "LM": probability(np.where(asks, evidence.lm_logit, -np.inf)),
        "encoder": without_lm,
        "fused": with_lm,
    }
    estimates = [_estimate(name, probabilities, labeled) for name, probabilities in alone.items()]
    threshold = estimates[-1].threshold
    held = Held(evidence, with_lm, without_lm, correct, asks, gold, threshold)
    band = cheapest_band(held.bands(), max_loss)
    bounds = (band.low, band.high)
    mixed = np.where(pairs_in_band(without_lm, evidence, bounds)[evidence.pair], with_lm, without_lm)
    estimates.append(_estimate("fused, in the band", mixed, labeled, threshold))
    systems: dict[Asked, tuple[Floats, float]] = {
        "band": (mixed, threshold),
        "all": (with_lm, threshold),
        "none": (without_lm, estimates[2].threshold),
    }
    fusion = Fusion(
        with_lm=_weights(LmWeights, evidence, correct),
        without_lm=_weights(EncoderWeights, evidence, correct),
        band=bounds,
        thresholds={
            name: Thresholds(f1=best, precision=certified_thresholds(scores, correct, evidence.document))
            for name, (scores, best) in systems.items()
        },
        tokens_per_question=tokens_per_question,
        fitted_on=FittedOn(
            corpus_fingerprint=corpus_fingerprint,
            relations_sha256=relations_sha256,
            documents=labeled.documents,
            questions=len(evidence),
            positives=int(correct.sum()),
            gold=gold,
        ),
    )
    return Fit(fusion, tuple(estimates), band, tuple(curve(held, (0.0, 1.0), threshold)))


def _estimate(name: str, probabilities: Floats, labeled: Labeled, threshold: float | None = None) -> Estimate:
    """Return the scores of probabilities, at the best threshold or a given one."""
    if threshold is None:
        threshold, f1 = best_f1(probabilities, labeled.correct, labeled.gold)
    else:
        predicted = probabilities >= threshold
        f1 = f1_score(int((predicted & labeled.correct).sum()), int(predicted.sum()), labeled.gold)
    nll = negative_log_likelihood(probabilities, labeled.correct)
    return Estimate(name, nll, reliability(probabilities, labeled.correct).ece, threshold, f1)


def folds(documents: int) -> np.ndarray:
    """Return the fold of each document, [documents]. Folds differ in size by at most one document."""
    fold = np.empty(documents, dtype=np.int64)
    fold[np.random.default_rng(SEED).permutation(documents)] = np.arange(documents) % FOLDS
    return fold


def cross_fitted(labeled: Labeled) -> tuple[Floats, Floats]:
    """Return the probability of each question with and without LM, by weights of other folds, [questions] each."""
    evidence, correct = labeled.evidence, labeled.correct
    fold = folds(labeled.documents)[evidence.document]
    with_lm, without_lm = np.empty(len(evidence)), np.empty(len(evidence))
    for number in range(FOLDS):
        inside = fold == number
        others, answers = evidence.part(~inside), correct[~inside]
        part = evidence.part(inside)
        encoder = _weights(EncoderWeights, others, answers).log_odds(part)
        fused = _weights(LmWeights, others, answers).log_odds(part)
        without_lm[inside] = probability(encoder)
        with_lm[inside] = probability(np.where(np.isnan(fused), encoder, fused))
    return with_lm, without_lm


def _weights(kind: type[Weights], evidence: Evidence, correct: Bools) -> Weights:
    """Return fitted weights; those with LM are fitted on the questions that it was asked."""
    columns = kind.columns(evidence)
    asked = ~np.isnan(columns).any(axis=0)
    return kind.of(logistic_regression([column[asked] for column in columns], correct[asked]))


def logistic_regression(features: list[Floats], correct: Bools) -> list[float]:
    """Return the bias and the weight of each feature, by Newton's method with a tiny ridge.

    Args:
        features: columns, [questions] each.
        correct: the answers, [questions].
    """
    columns = np.stack([np.ones(len(correct)), *features])
    target = correct.astype(np.float64)
    ridge = RIDGE * len(correct)
    weights = np.zeros(len(columns))

    def loss(weights: Floats) -> float:
        logits = weights @ columns
        return float((np.logaddexp(0.0, logits) - target * logits).sum() + ridge * (weights @ weights) / 2)

    current = loss(weights)
    for _ in range(MAX_STEPS):
        probabilities = probability(weights @ columns)
        gradient = columns @ (probabilities - target) + ridge * weights
        curvature = (columns * (probabilities * (1.0 - probabilities))) @ columns.T + ridge * np.eye(len(columns))
        step = np.linalg.solve(curvature, gradient)
        # A full step may overshoot far from the minimum.
        scale = 1.0
        while (smaller := loss(weights - scale * step)) > current and scale > 1e-8:
            scale /= 2
        weights, current = weights - scale * step, min(smaller, current)
        if float(np.abs(scale * step).max()) < TOLERANCE:
            break
    return [float(weight) for weight in weights]
