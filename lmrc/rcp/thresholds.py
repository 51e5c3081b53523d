"""Thresholds chosen on dev, for the best F1 or a target recall, and stored next to the model.

Training writes `calibration.json` with its best weights; `launch/propose.py --threshold f1` or `recall=0.9` reads it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmrc.common.atomic_io import write_atomically
from lmrc.common.errors import UserError
from lmrc.config.types import wanted_recall
from lmrc.rcp.metrics import PrecisionRecallCurve

FILE = "calibration.json"
# Least log-odds of a relation that is kept: about P = 0.01.
MIN_LOGIT = -4.6
# Points of the stored curve: steps of 0.001 in recall.
NUM_POINTS = 1000


def calibrate(probabilities: NDArray[np.float64], gold: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the content of `calibration.json`.

    A threshold is the midpoint between two neighboring probabilities, so that rounding errors do not matter.

    Args:
        probabilities: P(relation) on dev, [pairs].
        gold: True if the pair has a relation, [pairs].

    Returns:
        "f1": [threshold, F1]; "curve": for each step of 0.001 in recall, [recall, threshold, precision] at the highest
        threshold that reaches it. Scores are in percent.
    """
    curve = PrecisionRecallCurve.of(probabilities, gold)
    if not curve.gold:
        return {"pairs": len(probabilities), "gold": 0, "f1": [0.5, 0.0], "curve": []}
    next_lower = np.append(curve.thresholds[1:], 0.0)
    thresholds = (curve.thresholds + next_lower) / 2
    points = np.searchsorted(curve.recall, np.arange(1, NUM_POINTS + 1) / NUM_POINTS - 1e-12)
    best = int(curve.f1.argmax())
    return {
        "pairs": len(probabilities),
        "gold": curve.gold,
        "f1": [float(thresholds[best]), 100 * float(curve.f1[best])],
        "curve": [
            [100 * float(curve.recall[point]), float(thresholds[point]), 100 * float(curve.precision[point])]
            for point in np.unique(points)
        ],
    }


def calibrate_relations(logits: NDArray[np.float32], gold: NDArray[np.bool_], missing: int) -> dict[str, Any]:
    """Return the entry "relations" of `calibration.json`: the threshold of the relation head for the best F1 on dev.

    Args:
        logits: log-odds of pairs and relations, [triples].
        gold: True if the pair has the relation, [triples].
        missing: number of gold triples without log-odds, because they are below `MIN_LOGIT`.

    Returns:
        "f1": [threshold as a probability, F1 in percent].
    """
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    # A threshold below MIN_LOGIT would also find triples that this F1 does not count.
    least = 1 / (1 + np.exp(-MIN_LOGIT))
    return {"f1": list(PrecisionRecallCurve.of(probabilities, gold, missing).best_f1(least))}


def find_relation_threshold(folder: Path, threshold: str) -> float:
    """Return the threshold of the relation head as a probability.

    Args:
        folder: folder of the model.
        threshold: a number, or `f1`.

    Raises:
        UserError: if `threshold` is f1, and the model has no usable `calibration.json`.
    """
    if threshold != "f1":
        return float(threshold)
    try:
        return float(json.loads((folder / FILE).read_text())["relations"]["f1"][0])
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(
            f"{folder / FILE} has no threshold of the relation head ({error!r}); give a number such as "
            "--relation-threshold 0.5, or train again with train.relation_weight"
        ) from None


def save(folder: Path, calibration: dict[str, Any]) -> None:
    """Write `calibration.json` next to the model in `folder`."""
    write_atomically(folder / FILE, json.dumps(calibration))


def find_threshold(folder: Path, threshold: str) -> float:
    """Return a threshold as a probability.

    Args:
        folder: folder of the model.
        threshold: a number, `f1` or `recall=SHARE`.

    Raises:
        UserError: if the threshold depends on dev, and the model has no usable `calibration.json`.
    """
    recall = wanted_recall(threshold)
    if threshold != "f1" and recall is None:
        return float(threshold)
    try:
        calibration = json.loads((folder / FILE).read_text())
        if recall is None:
            return float(calibration["f1"][0])
        thresholds = [point[1] for point in calibration["curve"] if point[0] >= 100 * recall - 1e-9]
    except FileNotFoundError:
        raise UserError(
            f"{folder} has no {FILE}, which training writes and --threshold {threshold} needs; train again, or give a "
            "number such as --threshold 0.5"
        ) from None
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{folder / FILE} is damaged ({error}); give a number such as --threshold 0.5") from error
    if not thresholds:
        raise UserError(f"{folder / FILE} was made without gold pairs; give a number such as --threshold 0.5")
    return float(thresholds[0])
