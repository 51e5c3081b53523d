"""Calibration of probabilities: the expected calibration error, and the bins of a reliability figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lmrc.fusion.evidence import LEAST, Bools, Floats

BINS = 15


class Bin(NamedTuple):
    """Questions of neighboring probabilities: their mean probability, the share that is correct, their number."""

    probability: float
    correct: float
    questions: int


@dataclass(frozen=True, slots=True)
class Reliability:
    """Bins with equally many questions, ascending by probability.

    Attributes:
        ece: expected calibration error: mean difference between probability and share correct, weighted by questions.
    """

    ece: float
    bins: tuple[Bin, ...]


def reliability(probabilities: Floats, gold: Bools, bins: int = BINS) -> Reliability:
    """Return the reliability of probabilities, [questions], given True for each correct question, [questions]."""
    order = np.argsort(probabilities, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    counted = tuple(Bin(float(probabilities[part].mean()), float(gold[part].mean()), len(part)) for part in parts)
    error = sum(abs(one.probability - one.correct) * one.questions for one in counted)
    return Reliability(error / len(order) if len(order) else 0.0, counted)


def negative_log_likelihood(probabilities: Floats, gold: Bools) -> float:
    """Return the mean negative log likelihood of the correct answers, with probabilities clipped as in log-odds."""
    right = np.clip(np.where(gold, probabilities, 1.0 - probabilities), LEAST, 1.0)
    return float(-np.log(right).mean())
