"""Removal of sentences from a document that does not fit the prompt (option `prompt.truncate`).

Whole sentences that mention neither entity of the pair are dropped, those farthest from a mention first, and as few as
possible. Most relations are stated near a mention, so little is lost.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable

from lmrc.corpus.types import Document


def droppable_sentences(document: Document, entities: Iterable[int]) -> list[int]:
    """Return the sentences that mention none of the entities, in the order in which they are dropped.

    The sentence farthest from a mention comes first; the distance is counted in sentences. If two are equally far, the
    later one comes first.
    """
    mentioning = {mention.sentence for entity in entities for mention in document.entities[entity]}
    others = (sentence for sentence in range(len(document.sentences)) if sentence not in mentioning)
    return sorted(
        others,
        key=lambda sentence: (min(abs(sentence - other) for other in mentioning), sentence),
        reverse=True,
    )


def sentences_to_drop(
    document: Document, entities: Iterable[int], fits: Callable[[tuple[int, ...]], bool]
) -> tuple[int, ...]:
    """Return the fewest sentences to drop so that the prompt fits; all droppable ones if it never does.

    Args:
        fits: takes the dropped sentences and returns whether the prompt fits without them.

    Returns:
        Indices of the sentences, in document order.
    """
    order = droppable_sentences(document, entities)
    count = bisect_left(range(len(order)), True, key=lambda count: fits(tuple(order[:count])))
    return tuple(sorted(order[:count]))
