"""Bootstrap over documents (Efron, 1979): confidence intervals, and a paired test of two systems."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lmrc.evaluation.metrics.registry import METRICS, Counts, MetricCounts
from lmrc.evaluation.metrics.triple_table import Flags, Triples

RESAMPLES = 1000
SEED = 66
# Most random document indices that are drawn in one call, to bound the memory.
DRAWS_AT_ONCE = 1 << 22

# Columns of `DocumentCounts.counts`.
COLUMNS = (
    *(f"{part}_{kind}" for part in ("all", "intra", "inter") for kind in ("correct", "predicted", "gold")),
    "correct_in_train",
)

Values = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """A 95 % percentile interval in percent: the 2.5th and the 97.5th percentile over the resamples."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric of two systems on the same documents, in percent."""

    first: float
    second: float
    # Interval of second minus first.
    interval: Interval
    # Approximate two-sided p-value of the paired bootstrap test.
    p: float

    @property
    def value(self) -> float:
        """Return second minus first."""
        return self.second - self.first

    @property
    def significant(self) -> bool:
        return self.p < 0.05

    def as_json(self) -> dict[str, float | list[float]]:
        return {
            "first": self.first,
            "second": self.second,
            "difference": self.value,
            "interval": list(self.interval),
            "p": self.p,
        }


@dataclass(frozen=True, eq=False)
class DocumentCounts:
    """Counts per gold document. The metrics of any sample of documents follow from sums of rows.

    Attributes:
        counts: `[documents, COLUMNS]`.
        unknown_titles: `[COLUMNS]` predictions for unknown titles. They are wrong in every sample.
        ign_epsilon: added to the denominator of the Ign F1 precision; None without training facts.
    """

    counts: Values
    unknown_titles: Values
    ign_epsilon: float | None

    @classmethod
    def of(cls, triples: Triples, system: int, in_training: Flags | None, epsilon: float) -> DocumentCounts:
        """Count the triples of one system; `in_training` are the gold triples that are training facts, `[triples]`."""
        predicted = triples.predicted[system]
        parts = (np.ones(len(triples), dtype=np.bool_), triples.distance == 0, triples.distance > 0)
        masks = [part & kind for part in parts for kind in (predicted & triples.gold, predicted, triples.gold)]
        masks.append(predicted & (np.zeros_like(predicted) if in_training is None else in_training))
        counts = np.zeros((len(triples.titles), len(COLUMNS)))
        for column, mask in enumerate(masks):
            counts[:, column] = np.bincount(triples.document[mask], minlength=len(triples.titles))
        documents = len(triples.documents)
        return cls(counts[:documents], counts[documents:].sum(0), None if in_training is None else epsilon)

    def metric_counts(self, totals: Values) -> MetricCounts:
        """Return the counts of samples as arrays, from sums `[..., COLUMNS]` of rows of `counts`."""
        columns = np.moveaxis(totals + self.unknown_titles, -1, 0)
        all_triples, intra, inter = (Counts(*columns[start : start + 3]) for start in (0, 3, 6))
        return MetricCounts(all_triples, intra, inter, columns[9], self.ign_epsilon)

    def metrics(self, totals: Values) -> dict[str, Values]:
        """Return all metrics that have an interval, in percent, from sums `[..., COLUMNS]` of rows of `counts`."""
        counts = self.metric_counts(totals)
        values: dict[str, Any] = {metric.name: metric.value(counts) for metric in METRICS if metric.has_interval}
        return {name: value for name, value in values.items() if value is not None}

    def whole(self) -> dict[str, float]:
        """Return all metrics that have an interval over all documents, in percent."""
        return {name: float(value) for name, value in self.metrics(self.counts.sum(0)).items()}


def intervals(counts: DocumentCounts, resamples: int = RESAMPLES, seed: int = SEED) -> dict[str, Interval]:
    """Return the 95 % percentile interval of each metric; an empty dictionary without documents.

    Each sample draws as many documents as there are, with replacement.
    """
    return intervals_over_seeds([counts], resamples, seed)


def intervals_over_seeds(
    runs: Sequence[DocumentCounts], resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Interval]:
    """Return the 95 % percentile interval of the mean of each metric over the seeds of a system.

    Each sample draws as many documents and as many runs as there are, both with replacement. All runs of a sample are
    scored on the same documents.

    Args:
        runs: one per seed, on the same documents in the same order.

    Raises:
        ValueError: there are no runs, or they are not on the same number of documents.
    """
    samples = _resampled(runs, resamples, seed)
    drawn = np.random.default_rng([seed, 1]).integers(len(runs), size=(resamples, len(runs)))
    return {name: _interval(np.take_along_axis(values.T, drawn, axis=1).mean(1)) for name, values in samples.items()}


def paired(
    first: DocumentCounts, second: DocumentCounts, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Difference]:
    """Compare two systems by the paired bootstrap test; return an empty dictionary without documents.

    Both systems are scored on the same samples of documents. The p-value is the share of samples whose difference is
    at least as far from the observed difference as that one is from zero (two-sided). The observation counts as one of
    the samples, so p is at least 1 / (resamples + 1).

    Source: Berg-Kirkpatrick et al., 2012.
    """
    return paired_over_seeds([first], [second], resamples, seed)


def paired_over_seeds(
    first: Sequence[DocumentCounts], second: Sequence[DocumentCounts], resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Difference]:
    """Compare the means of two systems over their seeds, as `paired` does.

    A sampled document brings its counts of all runs of both systems. The seeds are not sampled.

    Args:
        first: one per seed, on the same documents in the same order.
        second: the same for the other system.

    Raises:
        ValueError: a system has no runs, or the runs are not on the same number of documents.
    """
    if first and second and len(first[0].counts) != len(second[0].counts):
        raise ValueError(f"the systems are on {len(first[0].counts)} and {len(second[0].counts)} documents")
    samples_first, samples_second = (
        {name: values.mean(0) for name, values in _resampled(runs, resamples, seed).items()} for runs in (first, second)
    )
    observed_first, observed_second = _mean_metrics(first), _mean_metrics(second)
    differences = {}
    for name in samples_first:
        sampled = samples_second[name] - samples_first[name]
        observed = observed_second[name] - observed_first[name]
        # Rounding errors must not separate equal differences.
        farther = int((np.abs(sampled - observed) >= abs(observed) - 1e-9).sum())
        p = (farther + 1) / (resamples + 1)
        differences[name] = Difference(observed_first[name], observed_second[name], _interval(sampled), p)
    return differences


def _mean_metrics(runs: Sequence[DocumentCounts]) -> dict[str, float]:
    """Return the mean over the runs of each metric over all documents."""
    whole = [run.whole() for run in runs]
    return {name: float(np.mean([metrics[name] for metrics in whole])) for name in whole[0]}


def _resampled(runs: Sequence[DocumentCounts], resamples: int, seed: int) -> dict[str, Values]:
    """Return each metric of each run on each sample, `[runs, resamples]`.

    The seed and the number of documents decide the samples.
    """
    sizes = {len(run.counts) for run in runs}
    if len(sizes) != 1:
        raise ValueError(f"expected runs on the same documents, got runs on {sorted(sizes)} documents")
    (documents,) = sizes
    if not documents:
        return {}
    totals = [[weights @ run.counts for run in runs] for weights in _weights(documents, resamples, seed)]
    by_run = [run.metrics(np.concatenate(parts)) for run, parts in zip(runs, zip(*totals, strict=True), strict=True)]
    return {name: np.stack([metrics[name] for metrics in by_run]) for name in by_run[0]}


def _weights(documents: int, resamples: int, seed: int) -> Iterator[Values]:
    """Yield how often each sample contains each document, `[samples, documents]` in blocks of samples."""
    rng = np.random.default_rng(seed)
    at_once = max(1, DRAWS_AT_ONCE // documents)
    for start in range(0, resamples, at_once):
        samples = min(at_once, resamples - start)
        drawn = rng.integers(documents, size=(samples, documents)) + documents * np.arange(samples)[:, None]
        counted = np.bincount(drawn.ravel(), minlength=samples * documents)
        yield counted.reshape(samples, documents).astype(np.float64)


def _interval(values: Values) -> Interval:
    low, high = np.percentile(values, (2.5, 97.5))
    return Interval(float(low), float(high))
