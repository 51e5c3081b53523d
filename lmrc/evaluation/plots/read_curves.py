"""Curves that runs leave behind: learning, precision and recall of RCP on dev, F1 over the threshold of alignment."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmrc.common.errors import UserError

Series = dict[int, float]
"""Values by optimizer step, steps ascending."""

CALIBRATION = "calibration.json"
"""RCP writes it beside its best weights."""

METRICS = "metrics.jsonl"
"""Where a run folder keeps what training logged."""

SWEEP = "alignment.json"
"""Where a run folder keeps the sweep of `lmrc score --align`."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Precision and recall of RCP on dev over its threshold, in percent; recall ascends, thresholds descend."""

    best: tuple[float, float]
    """The threshold of the best F1, and that F1."""
    curve: tuple[tuple[float, float, float], ...]
    """(recall, threshold, precision)."""

    def at(self, threshold: float) -> tuple[float, float]:
        """(recall, precision) of the pairs with at least this probability, to a thousandth of recall."""
        reached = [(recall, precision) for recall, above, precision in self.curve if above >= threshold]
        return reached[-1] if reached else (0.0, 100.0)


@dataclass(frozen=True, slots=True)
class Aligned:
    """Scores, in percent, where relations outside the set are aligned to it from similarity `theta` on."""

    theta: float
    precision: float
    recall: float
    f1: float


def read_curves(path: str | Path) -> dict[str, Series]:
    """The numbers of a `metrics.jsonl` by name, each by step.

    A run that resumed has logged some steps twice: the later line holds. A last line without its end is still being
    written and is left away.

    Raises:
        UserError: the file is missing or unreadable, or a line is not a JSON object with an integer "step".
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a metrics.jsonl: {error}") from error
    if lines.pop():
        logger.warning("%s: the last line is incomplete and left away", path)
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
    """The calibration of an RCP model; None where dev had no pair with a relation.

    Raises UserError where the file cannot be read or is damaged.
    """
    raw = _json(path)
    try:
        curve = tuple((float(recall), float(above), float(precision)) for recall, above, precision in raw["curve"])
        threshold, f1 = raw["f1"]
        return Calibration((float(threshold), float(f1)), curve) if curve else None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error!r}); train RCP again to have it written anew") from error


def read_sweep(path: Path) -> list[Aligned]:
    """F1 over theta: a JSON list of {"theta", "precision", "recall", "f1"}, sorted by theta.

    Raises UserError where the file cannot be read or holds something else.
    """
    raw = _json(path)
    try:
        points = [Aligned(*(float(point[key]) for key in ("theta", "precision", "recall", "f1"))) for point in raw]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f'{path}: expected a list of {{"theta": …, "precision": …, "recall": …, "f1": …}} ({error!r})'
        ) from error
    if not points:
        raise UserError(f"{path}: holds no point; give at least one theta")
    return sorted(points, key=lambda point: point.theta)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from error
