"""Confusion between relations: gold against predicted relations of the same entity pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from lmrc.corpus.docred import relations_by_pair
from lmrc.corpus.predictions import Prediction
from lmrc.corpus.types import Document
from lmrc.evaluation.metrics.scores import Pair

# Number of entity pairs by (gold relation, predicted relation). None: no other relation on that side.
Confusion = Counter[tuple[str | None, str | None]]


def confusion(gold: Iterable[Document], predictions: Iterable[Prediction]) -> Confusion:
    """Count gold against predicted relations over all pairs of the gold documents that have either.

    A correct relation counts on the diagonal. Each missed relation of a pair counts against each wrong relation of the
    pair, or against None if there is no wrong one; and the other way round.
    """
    predicted_by_title: dict[str, dict[Pair, set[str]]] = {}
    for prediction in predictions:
        pairs = predicted_by_title.setdefault(prediction.title, {})
        pairs.setdefault((prediction.head, prediction.tail), set()).add(prediction.relation)
    counts: Confusion = Counter()
    for document in gold:
        gold_by_pair = relations_by_pair(document)
        predicted_by_pair = predicted_by_title.get(document.title, {})
        for pair in {*gold_by_pair, *predicted_by_pair}:
            expected, predicted = set(gold_by_pair.get(pair, ())), predicted_by_pair.get(pair, set())
            counts.update((relation, relation) for relation in expected & predicted)
            missed: set[str | None] = {*(expected - predicted)}
            wrong: set[str | None] = {*(predicted - expected)}
            if missed or wrong:
                counts.update((a, b) for a in missed or {None} for b in wrong or {None})
    return counts


def most_confused(counts: Confusion, limit: int) -> list[str]:
    """Return the `limit` most confused relations, then the most frequent ones; ties by id."""
    confused: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for (expected, predicted), count in counts.items():
        for relation in {expected, predicted} - {None}:
            assert relation is not None
            total[relation] += count
            if expected != predicted and expected is not None and predicted is not None:
                confused[relation] += count
    return sorted(total, key=lambda relation: (-confused[relation], -total[relation], relation))[:limit]
