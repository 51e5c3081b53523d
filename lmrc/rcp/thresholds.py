"""Thresholds chosen on dev, kept beside the model: for the best F1, or for a wanted recall.

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
from lmrc.rcp.metrics import Curve

FILE = "calibration.json"
# Points of the curve that are kept: recalls a thousandth apart.
POINTS = 1000


def calibrate(probabilities: NDArray[np.float64], gold: NDArray[np.bool_]) -> dict[str, Any]:
    """The content of `calibration.json` of P(relation) [pairs] and gold [pairs] of dev.

    `f1`: [threshold, F1]; `curve`: [recall, threshold, precision] for every thousandth of recall, of the highest
    threshold that reaches it. Percent and probabilities as in `measure`. A threshold lies half-way to the next pair
    below, so that the last bits of a probability decide nothing.
    """
    curve = Curve.of(probabilities, gold)
    if not curve.gold:
        return {"pairs": len(probabilities), "gold": 0, "f1": [0.5, 0.0], "curve": []}
    below = np.append(curve.thresholds[1:], 0.0)
    thresholds = (curve.thresholds + below) / 2
    reached = np.searchsorted(curve.recall, np.arange(1, POINTS + 1) / POINTS - 1e-12)
    best = int(curve.f1.argmax())
    return {
        "pairs": len(probabilities),
        "gold": curve.gold,
        "f1": [float(thresholds[best]), 100 * float(curve.f1[best])],
        "curve": [
            [100 * float(curve.recall[at]), float(thresholds[at]), 100 * float(curve.precision[at])]
            for at in np.unique(reached)
        ],
    }


def save(folder: Path, calibration: dict[str, Any]) -> None:
    """Write it beside the model in `folder`."""
    write_atomically(folder / FILE, json.dumps(calibration))


def find_threshold(folder: Path, threshold: str) -> float:
    """The probability that `threshold` means for the model in `folder`: a number, `f1` or `recall=SHARE`.

    Raises UserError where it was to be chosen on dev and the model was not measured there.
    """
    recall = wanted_recall(threshold)
    if threshold != "f1" and recall is None:
        return float(threshold)
    try:
        calibration = json.loads((folder / FILE).read_text())
        if recall is None:
            return float(calibration["f1"][0])
        reached = [point[1] for point in calibration["curve"] if point[0] >= 100 * recall - 1e-9]
    except FileNotFoundError:
        raise UserError(
            f"{folder} has no {FILE}, which training writes and --threshold {threshold} needs; train again, or give a "
            "number such as --threshold 0.5"
        ) from None
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{folder / FILE} is damaged ({error}); give a number such as --threshold 0.5") from error
    if not reached:
        raise UserError(f"{folder / FILE} was made without gold pairs; give a number such as --threshold 0.5")
    return float(reached[0])
