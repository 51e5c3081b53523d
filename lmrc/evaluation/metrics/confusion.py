"""Which relation was predicted where another one is gold, on the same pair of entities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from lmrc.corpus.docred import relations_by_pair
from lmrc.corpus.predictions import Prediction
from lmrc.corpus.types import Document
from lmrc.evaluation.metrics.scores import Pair

Confusion = Counter[tuple[str | None, str | None]]
"""(gold relation, predicted relation) to pairs of entities. None: nothing else of the pair is gold, or predicted."""


def confusion(gold: Iterable[Document], predictions: Iterable[Prediction]) -> Confusion:
    """Counts gold against predicted relations on every pair of the gold documents that has either.

    A relation that is gold and predicted counts on the diagonal. Of the others of its pair, each missed one is counted
    against each wrong one; where there is none on the other side, against None.
    """
    found: dict[str, dict[Pair, set[str]]] = {}
    for prediction in predictions:
        pairs = found.setdefault(prediction.title, {})
        pairs.setdefault((prediction.head, prediction.tail), set()).add(prediction.relation)
    counts: Confusion = Counter()
    for document in gold:
        wanted = relations_by_pair(document)
        given = found.get(document.title, {})
        for pair in {*wanted, *given}:
            right, told = set(wanted.get(pair, ())), given.get(pair, set())
            counts.update((relation, relation) for relation in right & told)
            missed: set[str | None] = {*(right - told)}
            wrong: set[str | None] = {*(told - right)}
            if missed or wrong:
                counts.update((a, b) for a in missed or {None} for b in wrong or {None})
    return counts


def most_confused(counts: Confusion, most: int) -> list[str]:
    """The relations most often taken for another or another for them; then the most frequent ones. Ties by id."""
    mixed: Counter[str] = Counter()
    present: Counter[str] = Counter()
    for (wanted, told), number in counts.items():
        for relation in {wanted, told} - {None}:
            assert relation is not None
            present[relation] += number
            if wanted != told and wanted is not None and told is not None:
                mixed[relation] += number
    return sorted(present, key=lambda relation: (-mixed[relation], -present[relation], relation))[:most]
