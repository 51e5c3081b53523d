"""How far scores depend on which documents happened to be in the set: resampling of documents (Efron, 1979)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lmrc.evaluation.metrics.triple_table import Flags, Triples

RESAMPLES = 1000
SEED = 66
DRAWS_AT_ONCE = 1 << 22

PARTS = ("", "intra_", "inter_")
COLUMNS = (*(part + kind for part in PARTS for kind in ("correct", "predicted", "gold")), "in_train")

Values = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """The 2.5th and the 97.5th percentile over the resamples, in percent: 95 % of them lie between."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric of two systems on the same documents, in percent."""

    first: float
    second: float
    interval: Interval
    """Of second minus first."""
    p: float
    """Approximate two-sided p-value of the paired bootstrap test."""

    @property
    def value(self) -> float:
        """Second minus first."""
        return self.second - self.first

    @property
    def significant(self) -> bool:
        """At the usual level of 5 %."""
        return self.p < 0.05

    def as_json(self) -> dict[str, float | list[float]]:
        """For programs."""
        return {
            "first": self.first,
            "second": self.second,
            "difference": self.value,
            "interval": list(self.interval),
            "p": self.p,
        }


@dataclass(frozen=True, eq=False)
class DocumentCounts:
    """What a system got right in each gold document: the scores of any sample of documents are sums of these."""

    counts: Values
    """[documents, COLUMNS]"""
    elsewhere: Values
    """[COLUMNS] predictions for unknown titles: they belong to no document and are wrong in every sample."""
    epsilon: float | None
    """What the variant of Ign F1 adds to the denominator of its precision; None without training facts."""

    @classmethod
    def of(cls, triples: Triples, system: int, in_training: Flags | None, epsilon: float) -> DocumentCounts:
        """Count the triples of one system; `in_training` says which gold triples are facts."""
        predicted = triples.predicted[system]
        parts = (np.ones(len(triples), dtype=np.bool_), triples.distance == 0, triples.distance > 0)
        masks = [part & kind for part in parts for kind in (predicted & triples.gold, predicted, triples.gold)]
        masks.append(predicted & (np.zeros_like(predicted) if in_training is None else in_training))
        counts = np.zeros((len(triples.titles), len(COLUMNS)))
        for column, mask in enumerate(masks):
            counts[:, column] = np.bincount(triples.document[mask], minlength=len(triples.titles))
        known = len(triples.known)
        return cls(counts[:known], counts[known:].sum(0), None if in_training is None else epsilon)

    def metrics(self, totals: Values) -> dict[str, Values]:
        """All metrics, in percent, of `totals` [..., COLUMNS] of counts, `elsewhere` not among them."""
        column = dict(zip(COLUMNS, np.moveaxis(totals + self.elsewhere, -1, 0), strict=True))
        found: dict[str, Values] = {}
        for part in PARTS:
            correct, predicted, gold = (column[part + kind] for kind in ("correct", "predicted", "gold"))
            found[f"{part}precision"] = _percent(correct, predicted)
            found[f"{part}recall"] = _percent(correct, gold)
            found[f"{part}f1"] = _percent(2 * correct, predicted + gold)
        if self.epsilon is not None:
            left = column["predicted"] - column["in_train"]
            precision = _percent(column["correct"] - column["in_train"], left + self.epsilon)
            found["ign_precision"] = precision
            found["ign_f1"] = _percent(2 * precision * found["recall"], precision + found["recall"]) / 100
        return found

    def whole(self) -> dict[str, float]:
        """All metrics over all documents, in percent."""
        return {name: float(value) for name, value in self.metrics(self.counts.sum(0)).items()}


def intervals(counts: DocumentCounts, resamples: int = RESAMPLES, seed: int = SEED) -> dict[str, Interval]:
    """95 % percentile intervals of all metrics over `resamples` samples of as many documents, with replacement.

    {} without documents.
    """
    return {name: _interval(values) for name, values in _resampled(counts, resamples, seed).items()}


def paired(
    first: DocumentCounts, second: DocumentCounts, resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Difference]:
    """Compare two systems on the same documents by the paired bootstrap test; {} without documents.

    Both are scored on each of the same samples of documents. The p-value is the share of samples whose difference is
    at least as far from the observed one as that is from zero (Berg-Kirkpatrick et al., 2012; both sides), the
    observation counted as one of them, so it is never below 1 / (resamples + 1).
    """
    one, other = first.whole(), second.whole()
    samples = _resampled(first, resamples, seed), _resampled(second, resamples, seed)
    differences = {}
    for name in samples[0]:
        moved = samples[1][name] - samples[0][name]
        observed = other[name] - one[name]
        # Rounding must not tell equal differences apart.
        farther = int((np.abs(moved - observed) >= abs(observed) - 1e-9).sum())
        differences[name] = Difference(one[name], other[name], _interval(moved), (farther + 1) / (resamples + 1))
    return differences


def _resampled(counts: DocumentCounts, resamples: int, seed: int) -> dict[str, Values]:
    """All metrics of each sample, [resamples]; the samples are a function of the seed and the number of documents."""
    documents = len(counts.counts)
    if not documents:
        return {}
    totals = [weights @ counts.counts for weights in _weights(documents, resamples, seed)]
    return counts.metrics(np.concatenate(totals))


def _weights(documents: int, resamples: int, seed: int) -> Iterator[Values]:
    """How often each document is in each sample, [some samples, documents] at a time."""
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


def _percent(part: Values, whole: Values) -> Values:
    """100 part / whole; 0 where there is no whole."""
    zero: Any = np.zeros(np.broadcast(part, whole).shape)
    return np.asarray(np.divide(100.0 * part, whole, out=zero, where=np.asarray(whole) != 0))
