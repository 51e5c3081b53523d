"""Scores of predicted triples, by the definitions of the DocRED and Re-DocRED scorers, without their faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from lmrc.config import IgnVariant
from lmrc.corpus.docred import Document, Label
from lmrc.corpus.relations import RelationSet
from lmrc.errors import UserError, nearest
from lmrc.evaluation.facts import Facts
from lmrc.evaluation.predictions import Prediction

IGN_EPSILON: dict[str, float] = {"docred": 0.0, "redocred": 1e-5}
"""Added to the denominator of the precision without training facts. thunlp/DocRED, code/evaluation.py, adds nothing;
tonytan48/Re-DocRED, evaluation.py (`re_p_ignore_train_annotated`), and before it wzhouad/ATLOP add 1e-5."""

Problem = Literal["unknown_title", "unknown_entity", "same_entity", "unknown_relation"]
"""Why a prediction cannot be right: no such document; no entity of that index; head is tail; no such relation."""

Pair = tuple[int, int]
"""Head and tail: indices of entities of one document."""

Triple = tuple[int, int, str]
"""Head, tail, relation id."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Counts:
    """Sizes of the predicted set, the gold set and what they share. Counts of disjoint parts add up."""

    correct: int = 0
    predicted: int = 0
    gold: int = 0

    @property
    def precision(self) -> float:
        """In percent; 0 where nothing is predicted."""
        return _percent(self.correct, self.predicted)

    @property
    def recall(self) -> float:
        """In percent; 0 where nothing is gold."""
        return _percent(self.correct, self.gold)

    @property
    def f1(self) -> float:
        """In percent: 2PR / (P + R), which is 2 correct / (predicted + gold); 0 where both are empty."""
        return _percent(2 * self.correct, self.predicted + self.gold)

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.correct + other.correct, self.predicted + other.predicted, self.gold + other.gold)

    def as_json(self) -> dict[str, float]:
        """Precision, recall, F1 (percent) and the support: the number of gold triples."""
        return {"precision": self.precision, "recall": self.recall, "f1": self.f1, "support": self.gold}


@dataclass(frozen=True, slots=True)
class Scores:
    """What `score` found. Percentages are properties of the counts."""

    all: Counts
    intra: Counts
    """Triples of which some mention of the head and some mention of the tail share a sentence."""
    inter: Counts
    """Triples of which none do."""
    per_relation: dict[str, Counts]
    """Every relation of the set, by id, in its order."""
    documents: int
    correct_in_train: int
    """Correct predictions that are facts of the training set; 0 without facts."""
    facts: Facts | None
    ign_variant: IgnVariant
    duplicates: int
    """Predictions given again; each counts once."""
    problems: dict[Problem, int]
    """Predictions that cannot be right, by the first kind that applies. They count as wrong."""
    examples: dict[Problem, Prediction]
    """One prediction of each kind of problem: the least by (title, head, tail, relation)."""

    @property
    def ign_precision(self) -> float | None:
        """Precision, in percent, without correct predictions that are training facts; None without facts.

        0 where nothing is left (the official DocRED scorer divides by zero there).
        """
        if self.facts is None:
            return None
        left = self.all.predicted - self.correct_in_train
        return _percent(self.all.correct - self.correct_in_train, left + IGN_EPSILON[self.ign_variant])

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
            "documents": self.documents,
            "predictions": self.all.predicted,
            "gold": self.all.gold,
            "correct": self.all.correct,
            "correct_in_train": self.correct_in_train,
            "intra_gold": self.intra.gold,
            "inter_gold": self.inter.gold,
            "duplicates": self.duplicates,
            "problems": dict(self.problems),
            "ign_variant": self.ign_variant,
            "train_facts": None
            if self.facts is None
            else {"source": self.facts.source, "sha256": self.facts.sha256, "facts": len(self.facts.triples)},
            "per_relation": {relation: counts.as_json() for relation, counts in self.per_relation.items()},
        }


def score(
    gold: Iterable[Document],
    predictions: Iterable[Prediction],
    relations: RelationSet,
    train_facts: Facts | None = None,
    ign_variant: IgnVariant = "docred",
) -> Scores:
    """Compare predictions with gold documents; gold is read once, as a stream.

    Micro-averaged over unique (title, head, tail, relation). A prediction for an unknown title, entity or relation is
    wrong, and counted by kind. One whose title or entities are unknown is neither intra nor inter, for it has no
    sentences to compare: it lowers the precision and F1, not the intra and inter ones. (The Re-DocRED scorer crashes.)

    Raises:
        UserError: gold documents without labels or with a title twice, an unknown gold relation or `ign_variant`.
    """
    if ign_variant not in get_args(IgnVariant):
        raise UserError(f"unknown Ign F1 variant {ign_variant!r}; {nearest(ign_variant, get_args(IgnVariant))}")
    by_title, duplicates = _unique(predictions)
    everything, intra, inter = Counts(), Counts(), Counts()
    correct, predicted, expected = Counter[str](), Counter[str](), Counter[str]()
    refused: dict[Problem, list[Prediction]] = {}
    seen: set[str] = set()
    in_train = 0
    for document in gold:
        wanted = _gold_triples(document, relations, seen)
        found = by_title.pop(document.title, set())
        hits = found & wanted
        everything += _compare(found, wanted)
        near, far = _by_distance(document, found | wanted)
        intra += _compare(found & near, wanted & near)
        inter += _compare(found & far, wanted & far)
        for counter, triples in ((correct, hits), (predicted, found), (expected, wanted)):
            counter.update(relation for _, _, relation in triples)
        if train_facts is not None:
            in_train += sum(train_facts.known(document.entities[h], document.entities[t], r) for h, t, r in hits)
        for triple in found - hits:
            problem = _problem(document, triple, relations)
            if problem is not None:
                refused.setdefault(problem, []).append(Prediction(document.title, *triple))
    # What is left belongs to no gold document.
    for title, found in by_title.items():
        everything += _compare(found, set())
        predicted.update(relation for _, _, relation in found)
        refused.setdefault("unknown_title", []).extend(Prediction(title, *triple) for triple in found)
    return Scores(
        all=everything,
        intra=intra,
        inter=inter,
        per_relation={r: Counts(correct[r], predicted[r], expected[r]) for r in relations.ids},
        documents=len(seen),
        correct_in_train=in_train,
        facts=train_facts,
        ign_variant=ign_variant,
        duplicates=duplicates,
        problems={kind: len(refused.get(kind, ())) for kind in get_args(Problem)},
        examples={kind: min(refused[kind], key=_order) for kind in get_args(Problem) if kind in refused},
    )


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
        counts += _compare(by_title.pop(document.title, set()), wanted)
    return counts + Counts(predicted=sum(map(len, by_title.values())))


def _percent(part: float, whole: float) -> float:
    return 100.0 * part / whole if whole else 0.0


def _order(prediction: Prediction) -> tuple[str, int, int, str]:
    return prediction.title, prediction.head, prediction.tail, prediction.relation


def _unique(predictions: Iterable[Prediction]) -> tuple[dict[str, set[Triple]], int]:
    """The triples predicted for each title, and how many predictions were repeats."""
    by_title: dict[str, set[Triple]] = {}
    given = 0
    for prediction in predictions:
        given += 1
        by_title.setdefault(prediction.title, set()).add((prediction.head, prediction.tail, prediction.relation))
    return by_title, given - sum(map(len, by_title.values()))


def _compare(found: AbstractSet[T], wanted: AbstractSet[T]) -> Counts:
    return Counts(len(found & wanted), len(found), len(wanted))


def _labels(document: Document, seen: set[str]) -> tuple[Label, ...]:
    """The labels of the next gold document, whose title joins `seen`."""
    if document.labels is None:
        raise UserError(f"the gold document {document.title!r} has no labels; scores need labelled documents")
    if document.title in seen:
        raise UserError(f"two gold documents are titled {document.title!r}; predictions name documents by title")
    seen.add(document.title)
    return document.labels


def _gold_triples(document: Document, relations: RelationSet, seen: set[str]) -> set[Triple]:
    triples = {(label.head, label.tail, label.relation) for label in _labels(document, seen)}
    for _, _, relation in triples:
        if relation not in relations:
            raise UserError(
                f"the gold document {document.title!r} has a relation outside the relation set, {relation!r}; "
                f"{nearest(relation, relations.ids)}"
            )
    return triples


def _by_distance(document: Document, triples: AbstractSet[Triple]) -> tuple[set[Triple], set[Triple]]:
    """The triples whose entities meet in some sentence, and those whose do not; neither: an entity does not exist."""
    sentences = [{mention.sentence for mention in entity} for entity in document.entities]
    exist = range(len(sentences))
    placed = {triple for triple in triples if triple[0] in exist and triple[1] in exist}
    near = {triple for triple in placed if not sentences[triple[0]].isdisjoint(sentences[triple[1]])}
    return near, placed - near


def _problem(document: Document, triple: Triple, relations: RelationSet) -> Problem | None:
    """Why a prediction for a known document cannot be right, or None."""
    head, tail, relation = triple
    exist = range(len(document.entities))
    if head not in exist or tail not in exist:
        return "unknown_entity"
    if head == tail:
        return "same_entity"
    return None if relation in relations else "unknown_relation"
