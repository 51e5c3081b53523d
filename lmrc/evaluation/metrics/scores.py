"""Scores of predicted triples, as the DocRED and Re-DocRED scorers define them, without their bugs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from lmrc.common.errors import UserError, nearest
from lmrc.config.schema import IgnVariant
from lmrc.corpus.predictions import Prediction, Predictions
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document, Triple
from lmrc.evaluation.metrics.bootstrap import DocumentCounts, Interval, intervals
from lmrc.evaluation.metrics.facts_check import facts_warnings, ign_variant_for
from lmrc.evaluation.metrics.gold_table import Gold
from lmrc.evaluation.metrics.registry import METRICS, Counts, MetricCounts
from lmrc.evaluation.metrics.splits import Split, all_splits
from lmrc.evaluation.metrics.train_facts import Facts
from lmrc.evaluation.metrics.triple_table import Flags, Triples

__all__ = ["Counts", "Pair", "Problem", "Scores", "Triple", "score", "scores_of"]

# Added to the denominator of the Ign F1 precision. thunlp/DocRED (code/evaluation.py) adds nothing;
# tonytan48/Re-DocRED (evaluation.py, `re_p_ignore_train_annotated`) and wzhouad/ATLOP add 1e-5.
IGN_EPSILON: dict[str, float] = {"docred": 0.0, "redocred": 1e-5}

# Reasons why a prediction cannot be correct.
Problem = Literal["unknown_title", "unknown_entity", "same_entity", "unknown_relation"]

# Entity indices of head and tail in one document.
Pair = tuple[int, int]


@dataclass(frozen=True)
class Scores:
    """The scores of one system. Percentages are computed from the counts."""

    all: Counts
    # Triples whose head and tail have mentions in one sentence.
    intra: Counts
    # Triples whose head and tail have no mentions in one sentence.
    inter: Counts
    # All relations of the relation set by id, in its order.
    per_relation: dict[str, Counts]
    # Unique (title, head, tail, relation, sentence); None if no prediction has evidence.
    evidence: Counts | None
    # Evidence sentences that the document does not have; they count as wrong.
    unknown_sentences: int
    splits: tuple[Split, ...]
    documents: int
    documents_with_predictions: int
    # Correct predictions that are training facts; 0 without facts.
    correct_in_train: int
    facts: Facts | None
    # Reasons why Ign F1 may be misleading: the facts do not fit the gold documents.
    facts_warnings: tuple[str, ...]
    ign_variant: IgnVariant
    # Repeated predictions; each triple counts once.
    duplicates: int
    # Predictions that cannot be correct, by the first reason that applies. They count as wrong.
    problems: dict[Problem, int]
    # For each reason, the smallest such prediction by (title, head, tail, relation).
    examples: dict[Problem, Prediction]
    by_document: DocumentCounts = field(compare=False, repr=False)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Return the 95 % bootstrap interval of each metric that has one, by the names in `METRICS`."""
        return intervals(self.by_document)

    @cached_property
    def metrics(self) -> dict[str, float | None]:
        """Return the value of each metric by the names in `METRICS`; None if it cannot be computed."""
        epsilon = None if self.facts is None else IGN_EPSILON[self.ign_variant]
        counts = MetricCounts(self.all, self.intra, self.inter, self.correct_in_train, epsilon, self.evidence)
        return {metric.name: metric.value(counts) for metric in METRICS}

    @property
    def ign_precision(self) -> float | None:
        """Return the precision in percent without correct training facts; None without facts."""
        return self.metrics["ign_precision"]

    @property
    def ign_f1(self) -> float | None:
        """Return F1 in percent from `ign_precision` and the full recall; None without facts."""
        return self.metrics["ign_f1"]

    def as_json(self) -> dict[str, Any]:
        """Return all scores. Precision, recall and F1 are in percent, the other numbers are counts."""
        return {
            **self.metrics,
            "documents": self.documents,
            "documents_with_predictions": self.documents_with_predictions,
            "duplicates": self.duplicates,
            "problems": {**self.problems, "unknown_sentence": self.unknown_sentences},
            "ign_variant": self.ign_variant,
            "train_facts": None if self.facts is None else self.facts.as_json(),
            "warnings": list(self.facts_warnings),
            "intervals": {name: list(interval) for name, interval in self.intervals.items()},
            "splits": {
                split.name: {part: counts.as_json() for part, counts in split.parts.items()} for split in self.splits
            },
            "per_relation": {relation: counts.as_json() for relation, counts in self.per_relation.items()},
        }


def score(
    gold: Iterable[Document] | Gold,
    predictions: Iterable[Prediction] | Predictions,
    relations: RelationSet,
    train_facts: Facts | None = None,
    ign_variant: IgnVariant | None = None,
) -> Scores:
    """Score predictions against gold documents, micro-averaged over unique (title, head, tail, relation).

    A prediction with an unknown title, entity or relation is wrong. If its title or entities are unknown, it lowers
    precision and F1, but not the intra and inter scores. (The Re-DocRED scorer crashes on such predictions.)

    Args:
        gold: labeled documents; an iterable is read once, as a stream.
        predictions: predicted triples in any order; repeats are counted and ignored.
        relations: the relation set of the gold documents.
        train_facts: facts of the training set, for Ign F1.
        ign_variant: formula of Ign F1. By default that of the data set of the gold documents, then of the facts, then
            DocRED's.

    Raises:
        UserError: the gold documents have no labels, a title twice or an unknown relation, or `ign_variant` is unknown.
    """
    table = gold if isinstance(gold, Gold) else Gold.of(gold, relations)
    system = predictions if isinstance(predictions, Predictions) else Predictions.of(predictions)
    return scores_of(Triples.of(table, [system]), train_facts, ign_variant)[0]


def scores_of(triples: Triples, facts: Facts | None = None, ign_variant: IgnVariant | None = None) -> list[Scores]:
    """Return the scores of each system as `score` does; work that the systems share is done once.

    Raises:
        UserError: `ign_variant` is unknown.
    """
    ign_variant = ign_variant or ign_variant_for(triples.documents, facts)
    if ign_variant not in get_args(IgnVariant):
        raise UserError(f"unknown Ign F1 variant {ign_variant!r}; {nearest(ign_variant, get_args(IgnVariant))}")
    in_training = None if facts is None else triples.in_training(facts)
    warnings = () if facts is None or in_training is None else facts_warnings(triples, in_training, facts, ign_variant)
    return [
        _system_scores(triples, system, facts, ign_variant, in_training, warnings)
        for system in range(len(triples.predicted))
    ]


def _system_scores(
    triples: Triples,
    system: int,
    facts: Facts | None,
    ign_variant: IgnVariant,
    in_training: Flags | None,
    warnings: tuple[str, ...],
) -> Scores:
    predicted, gold = triples.predicted[system], triples.gold
    relations = triples.documents.relations
    by_relation = [
        np.bincount(triples.relation[mask], minlength=len(relations)).tolist()
        for mask in (predicted & gold, predicted, gold)
    ]
    problems = _problems(triples, system)
    by_document = DocumentCounts.of(triples, system, in_training, IGN_EPSILON[ign_variant])
    totals = (by_document.counts.sum(0) + by_document.unknown_titles).astype(int).tolist()
    in_known_document = predicted & (triples.document < len(triples.documents))
    return Scores(
        all=Counts(*totals[0:3]),
        intra=Counts(*totals[3:6]),
        inter=Counts(*totals[6:9]),
        per_relation={id: Counts(*counts) for id, *counts in zip(relations.ids, *by_relation, strict=False)},
        evidence=_evidence(triples, system),
        unknown_sentences=_unknown_sentences(triples, system),
        splits=all_splits(triples, system, facts),
        documents=len(triples.documents),
        documents_with_predictions=len(np.unique(triples.document[in_known_document])),
        correct_in_train=totals[9],
        facts=facts,
        facts_warnings=warnings,
        ign_variant=ign_variant,
        duplicates=triples.duplicates[system],
        problems={problem: int(mask.sum()) for problem, mask in problems.items()},
        examples={problem: _smallest(triples, mask) for problem, mask in problems.items() if mask.any()},
        by_document=by_document,
    )


def _evidence(triples: Triples, system: int) -> Counts | None:
    """Count evidence as the official scorer does, except that repeated predictions add all their evidence."""
    predicted, gold = triples.predicted_evidence[system], triples.gold_evidence
    if predicted is None:
        return None
    return Counts(len(np.intersect1d(predicted, gold, assume_unique=True)), len(predicted), len(gold))


def _unknown_sentences(triples: Triples, system: int) -> int:
    keys = triples.predicted_evidence[system]
    if keys is None:
        return 0
    # A key is (triple << 32) + sentence; the sentence may be negative.
    triple = (keys + 2**31) >> 32
    document, sentence = triples.document[triple], keys - (triple << 32)
    known = document < len(triples.documents)
    document, sentence = document[known], sentence[known]
    return int(((sentence < 0) | (sentence >= triples.documents.sentences[document])).sum())


def _problems(triples: Triples, system: int) -> dict[Problem, Flags]:
    """Return the predictions that cannot be correct, `[triples]` for each reason, by the first that applies."""
    unexplained = triples.predicted[system] & ~triples.gold
    masks: dict[Problem, Flags] = {
        "unknown_title": triples.document >= len(triples.documents),
        "unknown_entity": ~triples.entities_exist,
        "same_entity": triples.head == triples.tail,
        "unknown_relation": triples.relation >= len(triples.documents.relations),
    }
    for problem, mask in masks.items():
        masks[problem] = unexplained & mask
        unexplained = unexplained & ~mask
    return masks


def _smallest(triples: Triples, mask: Flags) -> Prediction:
    """Return the first selected triple by (title, head, tail, relation)."""
    document = min(np.unique(triples.document[mask]).tolist(), key=triples.titles.__getitem__)
    rows = np.flatnonzero(mask & (triples.document == document))
    head, tail, relation = min(
        (head, tail, triples.relations[relation])
        for head, tail, relation in zip(
            triples.head[rows].tolist(), triples.tail[rows].tolist(), triples.relation[rows].tolist(), strict=True
        )
    )
    return Prediction(triples.titles[document], head, tail, relation)
