"""The metrics: one table that the console, the JSON, the report and the bootstrap read.

To add a metric, append a `Metric` to `METRICS`. That is all if `MetricCounts` has the counts it needs. For new counts,
add a field to `MetricCounts` and fill it in `DocumentCounts` (`lmrc.evaluation.metrics.bootstrap`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lmrc.evaluation.paper_scores import ABSENT


def ratio(part: Any, whole: Any) -> float:
    """Return part / whole, and 0 if whole is 0; element by element for arrays, which the bootstrap uses."""
    result: Any = 0.0
    if isinstance(whole, np.ndarray):
        result = np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=whole != 0)
    elif whole:
        result = part / whole
    return result  # type: ignore[no-any-return]


def percent(part: Any, whole: Any) -> float:
    """Return 100 part / whole, and 0 if whole is 0; element by element for arrays."""
    return ratio(100.0 * part, whole)


@dataclass(frozen=True, slots=True)
class Counts:
    """True positives, predictions and gold items. Counts of disjoint sets can be added.

    The bootstrap puts arrays `[samples]` in place of the numbers; the metrics below are then arrays too.
    """

    correct: int = 0
    predicted: int = 0
    gold: int = 0

    @property
    def precision(self) -> float:
        """Return the precision in percent; 0 without predictions."""
        return percent(self.correct, self.predicted)

    @property
    def recall(self) -> float:
        """Return the recall in percent; 0 without gold items."""
        return percent(self.correct, self.gold)

    @property
    def f1(self) -> float:
        """Return F1 in percent: 2PR / (P + R) = 2 correct / (predicted + gold); 0 if both are empty."""
        return percent(2 * self.correct, self.predicted + self.gold)

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.correct + other.correct, self.predicted + other.predicted, self.gold + other.gold)

    def as_json(self) -> dict[str, float]:
        """Return precision, recall and F1 in percent, and the number of gold items as "support"."""
        return {"precision": self.precision, "recall": self.recall, "f1": self.f1, "support": self.gold}


@dataclass(frozen=True, slots=True)
class MetricCounts:
    """Everything that metrics are computed from."""

    all: Counts
    # Triples whose head and tail have mentions in one sentence, and triples whose head and tail have not.
    intra: Counts
    inter: Counts
    # Correct predictions that are training facts.
    correct_in_train: int = 0
    # Added to the denominator of `ign_precision`; None without training facts.
    ign_epsilon: float | None = None
    # None if no prediction has evidence. The bootstrap does not count evidence.
    evidence: Counts | None = None


def ign_precision(counts: MetricCounts) -> float | None:
    """Return the precision in percent without correct predictions that are training facts; None without facts.

    The official DocRED scorer divides by zero if no prediction is left; this returns 0.
    """
    if counts.ign_epsilon is None:
        return None
    predicted = counts.all.predicted - counts.correct_in_train
    return percent(counts.all.correct - counts.correct_in_train, predicted + counts.ign_epsilon)


def ign_f1(counts: MetricCounts) -> float | None:
    """Return F1 in percent from `ign_precision` and the full recall; None without training facts."""
    precision, recall = ign_precision(counts), counts.all.recall
    return None if precision is None else ratio(2 * precision * recall, precision + recall)


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of predicted triples.

    Attributes:
        name: key in the JSON.
        label: name in the tables of the report, as the paper prints it.
        value: computes the metric; None if the counts do not allow it.
        unit: percent (printed with two digits) or count.
        has_interval: whether the bootstrap gives an interval. Its counts must then be in `DocumentCounts`.
        column: heading in the score table of the console; empty if the metric is not shown there.
        in_summary: whether the summary of the report shows the metric.
    """

    name: str
    label: str
    value: Callable[[MetricCounts], float | None]
    unit: Literal["percent", "count"] = "percent"
    has_interval: bool = True
    column: str = ""
    in_summary: bool = False

    def format(self, value: float | None) -> str:
        """Return the value as text: two digits for percentages, as in the paper."""
        if value is None:
            return ABSENT
        return f"{value:.2f}" if self.unit == "percent" else f"{value:,}"


def _evidence(name: str) -> Callable[[MetricCounts], float | None]:
    return lambda c: None if c.evidence is None else getattr(c.evidence, name)


METRICS = (
    Metric("precision", "Precision", lambda c: c.all.precision, column="P", in_summary=True),
    Metric("recall", "Recall", lambda c: c.all.recall, column="R", in_summary=True),
    Metric("f1", "F1", lambda c: c.all.f1, column="F1", in_summary=True),
    Metric("ign_precision", "Ign precision", ign_precision),
    Metric("ign_f1", "Ign F1", ign_f1, column="Ign F1", in_summary=True),
    Metric("intra_precision", "Intra precision", lambda c: c.intra.precision),
    Metric("intra_recall", "Intra recall", lambda c: c.intra.recall),
    Metric("intra_f1", "Intra F1", lambda c: c.intra.f1, column="Intra F1", in_summary=True),
    Metric("inter_precision", "Inter precision", lambda c: c.inter.precision),
    Metric("inter_recall", "Inter recall", lambda c: c.inter.recall),
    Metric("inter_f1", "Inter F1", lambda c: c.inter.f1, column="Inter F1", in_summary=True),
    Metric("evidence_precision", "Evidence precision", _evidence("precision"), has_interval=False),
    Metric("evidence_recall", "Evidence recall", _evidence("recall"), has_interval=False),
    Metric("evidence_f1", "Evidence F1", _evidence("f1"), has_interval=False, in_summary=True),
    Metric("predictions", "Predictions", lambda c: c.all.predicted, "count", has_interval=False, in_summary=True),
    Metric("gold", "Gold triples", lambda c: c.all.gold, "count", has_interval=False, in_summary=True),
    Metric("correct", "Correct", lambda c: c.all.correct, "count", has_interval=False),
    Metric("correct_in_train", "Correct training facts", lambda c: c.correct_in_train, "count", has_interval=False),
    Metric("intra_gold", "Intra gold triples", lambda c: c.intra.gold, "count", has_interval=False),
    Metric("inter_gold", "Inter gold triples", lambda c: c.inter.gold, "count", has_interval=False),
)
# The columns of the score table in the console.
COLUMN_METRICS = tuple(metric for metric in METRICS if metric.column)
