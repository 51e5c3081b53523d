from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from lmrc.corpus.predictions import Prediction
from lmrc.corpus.synthetic import generator as synthetic
from lmrc.corpus.types import Document
from lmrc.evaluation.metrics import bootstrap
from lmrc.evaluation.metrics.bootstrap import intervals, intervals_over_seeds, paired, paired_over_seeds
from lmrc.evaluation.metrics.scores import Scores, score
from lmrc.evaluation.metrics.train_facts import Facts
from tests.evaluation.examples import RELATIONS
from tests.evaluation.strategies import as_predictions, documents, predicted

METRICS = [f"{part}{name}" for part in ("", "intra_", "inter_") for name in ("precision", "recall", "f1")]
METRICS += ["ign_precision", "ign_f1"]
FACTS = Facts(frozenset({("a", "b", "P1"), ("b", "A", "P2")}), "facts.json", "0" * 64)


def resampled(gold: list[Document], predictions: list[Prediction], chosen: list[int], *more: Any) -> Scores:
    """Score a materialized sample: a copy of each chosen document with its predictions, under a new title."""
    sample, found = [], [p for p in predictions if p.title not in {d.title for d in gold}]
    for position, index in enumerate(chosen):
        sample.append(replace(gold[index], title=f"{position} {gold[index].title}"))
        found += [replace(p, title=f"{position} {p.title}") for p in predictions if p.title == gold[index].title]
    return score(sample, found, *more)


@settings(deadline=None, max_examples=12)
@given(documents(), predicted, predicted)
def test_bootstrap_agrees_with_scores_of_materialized_samples(
    gold: list[Document], first: list[Prediction], second: list[Prediction]
) -> None:
    first = first + as_predictions(gold)[::2]
    first_scores, second_scores = (
        score(gold, first, RELATIONS, FACTS, "redocred"),
        score(gold, second, RELATIONS, FACTS, "redocred"),
    )
    found = intervals(first_scores.by_document, resamples=9, seed=3)
    differences = paired(first_scores.by_document, second_scores.by_document, resamples=9, seed=3)
    if not gold:
        assert found == differences == {}
        return
    assert set(found) == set(differences) == set(METRICS)
    draws = np.random.default_rng(3).integers(len(gold), size=(9, len(gold))).tolist()
    samples = [
        [resampled(gold, p, chosen, RELATIONS, FACTS, "redocred").as_json() for chosen in draws]
        for p in (first, second)
    ]
    for name in METRICS:
        values = [[float(sample[name]) for sample in side] for side in samples]
        assert tuple(found[name]) == pytest.approx(np.percentile(values[0], [2.5, 97.5]), abs=1e-9), name
        moved = [b - a for a, b in zip(*values, strict=True)]
        observed = second_scores.as_json()[name] - first_scores.as_json()[name]
        difference = differences[name]
        assert difference.value == pytest.approx(observed, abs=1e-9)
        assert tuple(difference.interval) == pytest.approx(np.percentile(moved, [2.5, 97.5]), abs=1e-9), name
        farther = sum(abs(d - observed) >= abs(observed) - 1e-7 for d in moved)
        assert difference.p == pytest.approx((farther + 1) / 10), name


@cache
def synthetic_gold() -> list[Document]:
    return list(synthetic.generate(60, 5))


def half_right(seed: int, share: float) -> tuple[list[Document], list[Prediction]]:
    """Return synthetic documents, and each of their triples with probability `share`."""
    rng = random.Random(seed)
    return synthetic_gold(), [p for p in as_predictions(synthetic_gold()) if rng.random() < share]


def test_whole_agrees_with_scores() -> None:
    gold, predictions = half_right(1, 0.6)
    scores = score(gold, predictions, synthetic.RELATIONS, FACTS)
    whole = scores.by_document.whole()
    assert whole == {name: pytest.approx(scores.as_json()[name]) for name in METRICS}
    for name, (low, high) in scores.intervals.items():
        assert low <= whole[name] <= high
    low, high = scores.intervals["recall"]
    assert 2 < high - low < 25


def test_block_size_does_not_change_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    gold, predictions = half_right(1, 0.6)
    counts = score(gold, predictions, synthetic.RELATIONS).by_document
    at_once = intervals(counts)
    monkeypatch.setattr(bootstrap, "DRAWS_AT_ONCE", 7 * 60)
    assert intervals(counts) == at_once
    assert intervals(counts, seed=1) != at_once


def test_equal_systems_have_no_difference() -> None:
    gold, predictions = half_right(1, 0.6)
    counts = score(gold, predictions, synthetic.RELATIONS).by_document
    for difference in paired(counts, counts).values():
        assert (difference.value, difference.p, tuple(difference.interval)) == (0.0, 1.0, (0.0, 0.0))
        assert not difference.significant


def test_only_large_differences_are_significant() -> None:
    gold, little = half_right(1, 0.5)
    _, as_little = half_right(2, 0.5)
    _, much = half_right(3, 0.8)
    counts = [score(gold, p, synthetic.RELATIONS).by_document for p in (little, as_little, much)]
    same, better = paired(counts[0], counts[1])["f1"], paired(counts[0], counts[2])["f1"]
    assert same.p > 0.1
    assert same.interval.low < 0 < same.interval.high
    assert better.p == pytest.approx(1 / 1001)
    assert better.interval.low > 0
    # Swapping the systems changes the signs.
    back = paired(counts[2], counts[0])["f1"]
    assert (back.value, back.p) == (pytest.approx(-better.value), better.p)
    assert tuple(back.interval) == pytest.approx((-better.interval.high, -better.interval.low))


def test_false_positive_rate() -> None:
    """Two equally good systems differ significantly in about 5 % of the data sets."""
    called = 0
    for seed in range(100):
        gold, first = half_right(2 * seed, 0.5)
        _, second = half_right(2 * seed + 1, 0.5)
        counts = [score(gold, p, synthetic.RELATIONS).by_document for p in (first, second)]
        called += paired(counts[0], counts[1], resamples=90)["f1"].significant
    assert called <= 13


def test_seeds_agree_with_scores_of_materialized_samples() -> None:
    """The means over three seeds of one system and two of another, on samples of documents that are written out."""
    gold = synthetic_gold()[:8]
    titles = {document.title for document in gold}
    systems = [[half_right(seed, share)[1] for seed in seeds] for seeds, share in (((1, 2, 3), 0.4), ((4, 5), 0.7))]
    systems = [[[p for p in run if p.title in titles] for run in runs] for runs in systems]
    more = (synthetic.RELATIONS, FACTS, "redocred")
    first, second = ([score(gold, run, *more).by_document for run in runs] for runs in systems)
    found = intervals_over_seeds(first, resamples=9, seed=3)
    differences = paired_over_seeds(first, second, resamples=9, seed=3)
    assert set(found) == set(differences) == set(METRICS)
    documents = np.random.default_rng(3).integers(8, size=(9, 8)).tolist()
    drawn = np.random.default_rng([3, 1]).integers(3, size=(9, 3)).tolist()
    samples = [
        [[resampled(gold, run, chosen, *more).as_json() for run in runs] for chosen in documents] for runs in systems
    ]
    whole = [[score(gold, run, *more).as_json() for run in runs] for runs in systems]
    for name in METRICS:
        of_seeds = [sum(runs[seed][name] for seed in seeds) / 3 for runs, seeds in zip(samples[0], drawn, strict=True)]
        assert tuple(found[name]) == pytest.approx(np.percentile(of_seeds, [2.5, 97.5]), abs=1e-9), name
        means = [[sum(run[name] for run in runs) / len(runs) for runs in system] for system in samples]
        moved = [b - a for a, b in zip(*means, strict=True)]
        observed = [sum(run[name] for run in runs) / len(runs) for runs in whole]
        difference = differences[name]
        assert (difference.first, difference.second) == pytest.approx(tuple(observed), abs=1e-9)
        assert tuple(difference.interval) == pytest.approx(np.percentile(moved, [2.5, 97.5]), abs=1e-9), name
        farther = sum(abs(d - difference.value) >= abs(difference.value) - 1e-7 for d in moved)
        assert difference.p == pytest.approx((farther + 1) / 10), name


def test_seeds_widen_the_interval() -> None:
    """Seeds that differ are sampled, seeds that are equal change nothing."""
    gold, _ = half_right(1, 0.5)
    counts = [
        score(gold, half_right(seed, share)[1], synthetic.RELATIONS).by_document
        for seed, share in enumerate((0.2, 0.5, 0.8))
    ]
    low, high = intervals(counts[1])["recall"]
    assert intervals_over_seeds([counts[1]] * 3)["recall"] == pytest.approx((low, high))
    seeds_low, seeds_high = intervals_over_seeds(counts)["recall"]
    assert seeds_high - seeds_low > 2 * (high - low)


def test_runs_on_other_documents_are_rejected() -> None:
    gold, predictions = half_right(1, 0.6)
    whole, part = (score(gold[:size], predictions, synthetic.RELATIONS).by_document for size in (60, 59))
    with pytest.raises(ValueError, match=r"got runs on \[59, 60\] documents"):
        intervals_over_seeds([whole, part])
    with pytest.raises(ValueError, match=r"got runs on \[\] documents"):
        intervals_over_seeds([])
    with pytest.raises(ValueError, match=r"got runs on \[\] documents"):
        paired_over_seeds([], [whole])
    with pytest.raises(ValueError, match="the systems are on 60 and 59 documents"):
        paired_over_seeds([whole], [part])
