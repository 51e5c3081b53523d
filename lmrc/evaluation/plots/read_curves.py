"""Curves that runs write: learning curves, precision and recall of RCP on dev, F1 over the alignment threshold."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmrc.common.errors import UserError

# Values by optimizer step, in ascending order.
Series = dict[int, float]

# RCP writes it beside its best weights.
CALIBRATION = "calibration.json"

# The metrics that a training logs, in the run folder.
METRICS = "metrics.jsonl"

# The scores of `lmrc score --align` for each threshold, in the run folder.
SWEEP = "alignment.json"

# The calibration of the probabilities of a run with the encoder, and F1 over the questions that its LM was asked.
RELIABILITY = "reliability.json"
FUSION_CURVE = "fusion-curve.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Precision and recall of RCP on dev by threshold, in percent.

    Attributes:
        best: threshold of the best F1, and that F1.
        curve: (recall, threshold, precision); recall ascends, thresholds descend.
    """

    best: tuple[float, float]
    curve: tuple[tuple[float, float, float], ...]

    def at(self, threshold: float) -> tuple[float, float]:
        """Return recall and precision of the pairs with at least this probability."""
        reached = [(recall, precision) for recall, above, precision in self.curve if above >= threshold]
        return reached[-1] if reached else (0.0, 100.0)


@dataclass(frozen=True, slots=True)
class Aligned:
    """Scores in percent if relations outside the set are aligned to it at a similarity of at least `theta`."""

    theta: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """Calibration of probabilities.

    Attributes:
        ece: expected calibration error.
        bins: (mean probability, share correct, number of questions), ascending by probability.
    """

    ece: float
    bins: tuple[tuple[float, float, int], ...]


@dataclass(frozen=True, slots=True)
class FusionCurve:
    """F1 over the cost of the LM.

    Attributes:
        points: (share of the proposed pairs that are asked about, questions, F1 in percent), ascending.
        tokens_per_question: LM tokens of a question; None if they are not known.
    """

    points: tuple[tuple[float, int, float], ...]
    tokens_per_question: float | None


def read_curves(path: str | Path) -> dict[str, Series]:
    """Read a metrics.jsonl and return the values of each metric by step.

    A resumed run logs some steps twice; the later line applies. An incomplete last line is still being written and is
    ignored.

    Raises:
        UserError: the file cannot be read, or a line is not a JSON object with an integer "step".
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a metrics.jsonl: {error}") from error
    if lines.pop():
        logger.warning("%s: the last line is incomplete and ignored", path)
    curves: dict[str, Series] = {}
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: line {number} is not JSON: {error}") from error
        if not isinstance(record, dict) or type(record.get("step")) is not int:
            raise UserError(f'{path}: line {number} is not an object with an integer "step"')
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                curves.setdefault(name, {})[record["step"]] = float(value)
    return {name: dict(sorted(series.items())) for name, series in curves.items()}


def read_calibration(path: Path) -> Calibration | None:
    """Read the calibration of an RCP model; return None if dev had no pair with a relation.

    Raises:
        UserError: the file cannot be read or is damaged.
    """
    raw = _read_json(path)
    try:
        curve = tuple((float(recall), float(above), float(precision)) for recall, above, precision in raw["curve"])
        threshold, f1 = raw["f1"]
        return Calibration((float(threshold), float(f1)), curve) if curve else None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error!r}); train RCP again to write it anew") from error


def read_sweep(path: Path) -> list[Aligned]:
    """Read F1 over theta, a JSON list of {"theta", "precision", "recall", "f1"}, and sort it by theta.

    Raises:
        UserError: the file cannot be read or has another format.
    """
    raw = _read_json(path)
    try:
        points = [Aligned(*(float(point[key]) for key in ("theta", "precision", "recall", "f1"))) for point in raw]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f'{path}: expected a list of {{"theta": …, "precision": …, "recall": …, "f1": …}} ({error!r})'
        ) from error
    if not points:
        raise UserError(f"{path}: the list is empty; give at least one theta")
    return sorted(points, key=lambda point: point.theta)


def read_reliability(path: Path) -> Reliability | None:
    """Read the calibration of a run; return None if it had no question.

    Raises:
        UserError: the file cannot be read or is damaged.
    """
    raw = _read_json(path)
    try:
        bins = tuple((float(row["probability"]), float(row["correct"]), int(row["questions"])) for row in raw["bins"])
        return Reliability(float(raw["ece"]), bins) if bins else None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error!r}); classify again to write it anew") from error


def read_fusion_curve(path: Path) -> FusionCurve:
    """Read F1 over the cost of the LM.

    Raises:
        UserError: the file cannot be read or is damaged.
    """
    raw = _read_json(path)
    try:
        points = tuple((float(row["share"]), int(row["questions"]), float(row["f1"])) for row in raw["curve"])
        tokens = raw["tokens_per_question"]
        return FusionCurve(points, None if tokens is None else float(tokens))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error!r}); classify again to write it anew") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from error
