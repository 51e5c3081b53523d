"""Scores of predicted triples, by the definitions of the DocRED and Re-DocRED scorers, without their faults."""

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
from lmrc.corpus.types import Document, Label, Triple
from lmrc.evaluation.metrics.bootstrap import DocumentCounts, Interval, intervals
from lmrc.evaluation.metrics.counts import Counts, percent
from lmrc.evaluation.metrics.facts_check import facts_warnings, variant_of
from lmrc.evaluation.metrics.gold_table import Gold
from lmrc.evaluation.metrics.splits import Split, splits_of
from lmrc.evaluation.metrics.train_facts import Facts
from lmrc.evaluation.metrics.triple_table import Flags, Triples

__all__ = ["Counts", "Pair", "Problem", "Scores", "Triple", "candidate_scores", "score", "scores_of"]

IGN_EPSILON: dict[str, float] = {"docred": 0.0, "redocred": 1e-5}
"""Added to the denominator of the precision without training facts. thunlp/DocRED, code/evaluation.py, adds nothing;
tonytan48/Re-DocRED, evaluation.py (`re_p_ignore_train_annotated`), and before it wzhouad/ATLOP add 1e-5."""

Problem = Literal["unknown_title", "unknown_entity", "same_entity", "unknown_relation"]
"""Why a prediction cannot be right: no such document; no entity of that index; head is tail; no such relation."""

Pair = tuple[int, int]
"""Head and tail: indices of entities of one document."""

"""Head, tail, relation id."""


@dataclass(frozen=True)
class Scores:
    """What `score` found. Percentages are properties of the counts."""

    all: Counts
    intra: Counts
    """Triples of which some mention of the head and some mention of the tail share a sentence."""
    inter: Counts
    """Triples of which none do."""
    per_relation: dict[str, Counts]
    """Every relation of the set, by id, in its order."""
    evidence: Counts | None
    """Unique (title, head, tail, relation, sentence); None where no prediction carries evidence."""
    unknown_sentences: int
    """Evidence that names a sentence which the document does not have; it counts as wrong."""
    splits: tuple[Split, ...]
    documents: int
    documents_with_predictions: int
    correct_in_train: int
    """Correct predictions that are facts of the training set; 0 without facts."""
    facts: Facts | None
    facts_warnings: tuple[str, ...]
    """Reasons to doubt Ign F1: the facts do not fit the gold documents."""
    ign_variant: IgnVariant
    duplicates: int
    """Predictions given again; each counts once."""
    problems: dict[Problem, int]
    """Predictions that cannot be right, by the first kind that applies. They count as wrong."""
    examples: dict[Problem, Prediction]
    """One prediction of each kind of problem: the least by (title, head, tail, relation)."""
    by_document: DocumentCounts = field(compare=False, repr=False)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """95 % bootstrap intervals over documents, by the names of `as_json`: "f1", "ign_f1", "intra_f1" and so on."""
        return intervals(self.by_document)

    @property
    def ign_precision(self) -> float | None:
        """Precision, in percent, without correct predictions that are training facts; None without facts.

        0 where nothing is left (the official DocRED scorer divides by zero there).
        """
        if self.facts is None:
            return None
        left = self.all.predicted - self.correct_in_train
        return percent(self.all.correct - self.correct_in_train, left + IGN_EPSILON[self.ign_variant])

    @property
    def ign_f1(self) -> float | None:
        """F1, in percent, of `ign_precision` and the untouched recall; None without facts."""
        precision, recall = self.ign_precision, self.all.recall
        if precision is None:
            return None
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0

    def as_json(self) -> dict[str, Any]:
        """Everything, for programs. Precisions, recalls and F1 are in percent, the rest are counts."""
        return {
            "precision": self.all.precision,
            "recall": self.all.recall,
            "f1": self.all.f1,
            "ign_precision": self.ign_precision,
            "ign_f1": self.ign_f1,
            "intra_precision": self.intra.precision,
            "intra_recall": self.intra.recall,
            "intra_f1": self.intra.f1,
            "inter_precision": self.inter.precision,
            "inter_recall": self.inter.recall,
            "inter_f1": self.inter.f1,
            "evidence_precision": None if self.evidence is None else self.evidence.precision,
            "evidence_recall": None if self.evidence is None else self.evidence.recall,
            "evidence_f1": None if self.evidence is None else self.evidence.f1,
            "documents": self.documents,
            "documents_with_predictions": self.documents_with_predictions,
            "predictions": self.all.predicted,
            "gold": self.all.gold,
            "correct": self.all.correct,
            "correct_in_train": self.correct_in_train,
            "intra_gold": self.intra.gold,
            "inter_gold": self.inter.gold,
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
    """Compare predictions with gold documents; gold is read once, as a stream.

    Micro-averaged over unique (title, head, tail, relation). A prediction for an unknown title, entity or relation is
    wrong, and counted by kind. One whose title or entities are unknown is neither intra nor inter, for it has no
    sentences to compare: it lowers the precision and F1, not the intra and inter ones. (The Re-DocRED scorer crashes.)
    Without `ign_variant` it is that of the data set which the gold documents, or else the facts, are of; or DocRED's.

    Raises:
        UserError: gold documents without labels or with a title twice, an unknown gold relation or `ign_variant`.
    """
    columns = gold if isinstance(gold, Gold) else Gold.of(gold, relations)
    system = predictions if isinstance(predictions, Predictions) else Predictions.of(predictions)
    return scores_of(Triples.of(columns, [system]), train_facts, ign_variant)[0]


def scores_of(triples: Triples, facts: Facts | None = None, ign_variant: IgnVariant | None = None) -> list[Scores]:
    """The scores of each system, as `score` gives them; what they share is computed once.

    Raises UserError at an unknown `ign_variant`.
    """
    ign_variant = ign_variant or variant_of(triples.known, facts)
    if ign_variant not in get_args(IgnVariant):
        raise UserError(f"unknown Ign F1 variant {ign_variant!r}; {nearest(ign_variant, get_args(IgnVariant))}")
    in_training = None if facts is None else triples.in_training(facts)
    doubts = () if facts is None or in_training is None else facts_warnings(triples, in_training, facts, ign_variant)
    return [
        _system(triples, system, facts, ign_variant, in_training, doubts) for system in range(len(triples.predicted))
    ]


def _system(
    triples: Triples,
    system: int,
    facts: Facts | None,
    ign_variant: IgnVariant,
    in_training: Flags | None,
    doubts: tuple[str, ...],
) -> Scores:
    predicted, gold = triples.predicted[system], triples.gold
    hits = predicted & gold
    relations = triples.known.relations
    by_relation = [
        np.bincount(triples.relation[mask], minlength=len(relations)).tolist() for mask in (hits, predicted, gold)
    ]
    problems = _problems(triples, system)

    def counts(mask: Flags) -> Counts:
        return Counts(int((hits & mask).sum()), int((predicted & mask).sum()), int((gold & mask).sum()))

    return Scores(
        all=counts(np.ones_like(gold)),
        intra=counts(triples.distance == 0),
        inter=counts(triples.distance > 0),
        per_relation={id: Counts(*three) for id, *three in zip(relations.ids, *by_relation, strict=False)},
        evidence=_evidence(triples, system),
        unknown_sentences=_unknown_sentences(triples, system),
        splits=splits_of(triples, system, facts),
        documents=len(triples.known),
        documents_with_predictions=_covered(triples, predicted),
        correct_in_train=0 if in_training is None else int((predicted & in_training).sum()),
        facts=facts,
        facts_warnings=doubts,
        ign_variant=ign_variant,
        duplicates=triples.duplicates[system],
        problems={kind: int(mask.sum()) for kind, mask in problems.items()},
        examples={kind: _least(triples, mask) for kind, mask in problems.items() if mask.any()},
        by_document=DocumentCounts.of(triples, system, in_training, IGN_EPSILON[ign_variant]),
    )


def _covered(triples: Triples, predicted: Flags) -> int:
    """The number of gold documents with a prediction."""
    known = triples.document < len(triples.known)
    return len(np.unique(triples.document[predicted & known]))


def candidate_scores(gold: Iterable[Document], proposed: Iterable[tuple[str, Iterable[Pair]]]) -> Counts:
    """The binary scores of Relation Candidate Proposal, over unique (title, head, tail).

    A pair proposed for an unknown title or entity counts as wrong.

    Raises:
        UserError: gold documents without labels or with a title twice.
    """
    by_title: dict[str, set[Pair]] = {}
    for title, pairs in proposed:
        by_title.setdefault(title, set()).update(pairs)
    counts = Counts()
    seen: set[str] = set()
    for document in gold:
        wanted = {(label.head, label.tail) for label in _labels(document, seen)}
        found = by_title.pop(document.title, set())
        counts += Counts(len(found & wanted), len(found), len(wanted))
    return counts + Counts(predicted=sum(map(len, by_title.values())))


def _evidence(triples: Triples, system: int) -> Counts | None:
    """The definition of the official scorer, but that repeated predictions bring all of their evidence."""
    predicted, gold = triples.predicted_evidence[system], triples.gold_evidence
    if predicted is None:
        return None
    return Counts(len(np.intersect1d(predicted, gold, assume_unique=True)), len(predicted), len(gold))


def _unknown_sentences(triples: Triples, system: int) -> int:
    keys = triples.predicted_evidence[system]
    if keys is None:
        return 0
    triple = (keys + 2**31) >> 32
    document, sentence = triples.document[triple], keys - (triple << 32)
    known = document < len(triples.known)
    document, sentence = document[known], sentence[known]
    return int(((sentence < 0) | (sentence >= triples.known.sentences[document])).sum())


def _problems(triples: Triples, system: int) -> dict[Problem, Flags]:
    """Which predictions cannot be right, each by the first kind that applies."""
    left = triples.predicted[system] & ~triples.gold
    kinds: dict[Problem, Flags] = {
        "unknown_title": triples.document >= len(triples.known),
        "unknown_entity": ~triples.placed,
        "same_entity": triples.head == triples.tail,
        "unknown_relation": triples.relation >= len(triples.known.relations),
    }
    for kind, mask in kinds.items():
        kinds[kind] = left & mask
        left = left & ~mask
    return kinds


def _least(triples: Triples, mask: Flags) -> Prediction:
    """The first of some triples by (title, head, tail, relation)."""
    document = min(np.unique(triples.document[mask]).tolist(), key=triples.titles.__getitem__)
    rows = np.flatnonzero(mask & (triples.document == document))
    head, tail, relation = min(
        (head, tail, triples.relations[relation])
        for head, tail, relation in zip(
            triples.head[rows].tolist(), triples.tail[rows].tolist(), triples.relation[rows].tolist(), strict=True
        )
    )
    return Prediction(triples.titles[document], head, tail, relation)


def _labels(document: Document, seen: set[str]) -> tuple[Label, ...]:
    """The labels of the next gold document, whose title joins `seen`."""
    if document.labels is None:
        raise UserError(f"the gold document {document.title!r} has no labels; scores need labelled documents")
    if document.title in seen:
        raise UserError(f"two gold documents are titled {document.title!r}; predictions name documents by title")
    seen.add(document.title)
    return document.labels
