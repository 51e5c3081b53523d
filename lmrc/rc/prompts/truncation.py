"""Which sentences of a text that does not fit are left out: `prompt.truncate`.

The rule, `sentences`: whole sentences without a mention of the asked entities, the farthest from such a mention first,
as few as will do. Distances are counted in sentences. What is said near an entity is what most of its relations are
read from; no token is cut off, and no name that is asked for is missing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable

from lmrc.corpus.types import Document


def dispensable(document: Document, entities: Iterable[int]) -> list[int]:
    """The sentences without a mention of any of the entities, in the order in which they go: of two at the same
    distance from the nearest mention, the later one first.
    """
    kept = {mention.sentence for entity in entities for mention in document.entities[entity]}
    others = (number for number in range(len(document.sentences)) if number not in kept)
    return sorted(others, key=lambda number: (min(abs(number - other) for other in kept), number), reverse=True)


def left_out(document: Document, entities: Iterable[int], fits: Callable[[tuple[int, ...]], bool]) -> tuple[int, ...]:
    """The fewest sentences, in the order of the text, without which it `fits`; all that may go, where it never does."""
    order = dispensable(document, entities)
    count = bisect_left(range(len(order)), True, key=lambda count: fits(tuple(order[:count])))
    return tuple(sorted(order[:count]))
