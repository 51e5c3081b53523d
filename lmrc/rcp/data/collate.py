"""Encoded documents as one batch of tensors, everything the forward pass indexes by computed beforehand.

The documents' windows lie end to end: there is no padding. Lengths and counts are plain numbers ("layout"), so that the
forward pass never waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmrc.rcp.data.tokenization import EncodedDocument
from lmrc.rcp.data.windows import Windows

Batch = dict[str, Any]


@dataclass(frozen=True, slots=True)
class DocumentShape:
    """Where a document is in a batch: how many of each it has. Those of other documents come before and after."""

    length: int
    """Word pieces."""
    windows: tuple[int, ...]
    """Tokens of each window."""
    mentions: int
    """Mentions with a marker in the document."""
    entities: int

    @property
    def unordered(self) -> int:
        """Number of pairs a < b of entities."""
        return self.entities * (self.entities - 1) // 2


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs a < b of a document's entities, sorted."""

    first: Tensor
    """[pairs]: all a."""
    second: Tensor
    """[pairs]: all b."""
    distances: Tensor | None
    """[pairs], where the model looks at them (`lmrc.rcp.data.features`)."""
    relations: Tensor | None
    """[2, pairs, relations], True where one holds of (a, b) and of (b, a); for `lmrc.rcp.model.relation_head`."""

    @classmethod
    def of(cls, batch: Batch) -> list[Pairs]:
        """All pairs of each document of a batch."""
        counts = [document.unordered for document in batch["layout"]]

        def split(name: str) -> Sequence[Tensor | None]:
            return torch.split(batch[name], counts) if name in batch else [None] * len(counts)

        relations: Sequence[Tensor | None] = [None] * len(counts)
        if "relations" in batch:
            both = torch.split(batch["relations"], [2 * count for count in counts])
            relations = [rows.view(2, count, rows.shape[1]) for rows, count in zip(both, counts, strict=True)]
        return [cls(*each) for each in zip(*map(split, ("first", "second", "distances")), relations, strict=True)]

    def part(self, pairs: slice) -> Pairs:
        """Some of them."""
        return Pairs(
            self.first[pairs],
            self.second[pairs],
            None if self.distances is None else self.distances[pairs],
            None if self.relations is None else self.relations[:, pairs],
        )


@lru_cache(maxsize=256)
def unordered_pairs(entities: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs a < b of a document, sorted: (all a, all b), each [entities * (entities - 1) / 2]."""
    first, second = np.triu_indices(entities, 1)
    return first, second


@lru_cache(maxsize=256)
def pair_order(entities: int) -> NDArray[np.int64]:
    """For the ordered pairs (h, t) sorted by (h, t): where they are in all (a, b) followed by all (b, a), a < b."""
    first, second = unordered_pairs(entities)
    number = np.zeros((entities, entities), dtype=np.int64)
    number[first, second] = np.arange(len(first))
    number[second, first] = len(first) + np.arange(len(first))
    return number[~np.eye(entities, dtype=np.bool_)]


def collate(documents: Sequence[EncodedDocument], windows: Windows, first_position: int) -> Batch:
    """One batch of CPU tensors, and "layout", a DocumentShape for each document.

    `first_position`: the position that the encoder gives to the first token of a text.
    """
    cut = [windows.cut(document.input_ids) for document in documents]
    markers = [np.array(list(chain.from_iterable(document.markers)), dtype=np.int64) for document in documents]
    layout = [
        DocumentShape(len(document.input_ids), tuple(map(len, pieces)), len(places), document.entities)
        for document, pieces, places in zip(documents, cut, markers, strict=True)
    ]
    pieces = list(chain.from_iterable(cut))
    starts = np.cumsum([0, *map(len, pieces)])
    places = [
        place for own, at in zip(layout, markers, strict=True) for place in windows.places(at, own.length)
    ]  # one (position, whether inside) for each window

    # The tables of all documents' entities and mentions.
    counts = np.array([len(own) for document in documents for own in document.markers], dtype=np.int64)
    table = np.arange(counts.max(initial=0) or 1)
    present = table < counts[:, None]
    begin = np.cumsum(counts) - counts
    arrays = {
        "input_ids": np.concatenate(pieces).astype(np.int64),  # [tokens]
        "position_ids": np.concatenate([np.arange(len(piece)) for piece in pieces]) + first_position,  # [tokens]
        # For each window, for each mention of its document: where in "input_ids" its marker is, and whether it is
        # there at all.
        "rows": np.concatenate([at + start for (at, _), start in zip(places, starts, strict=False)]),
        "inside": np.concatenate([held for _, held in places]),
        "markers": np.concatenate(markers),  # [mentions]: where they are in their document
        "owner": np.concatenate([np.repeat(np.arange(d.entities), list(map(len, d.markers))) for d in documents]),
        "share": np.repeat(1 / np.maximum(counts, 1), counts),  # [mentions]: 1 / mentions of its entity
        "mentions": np.where(present, begin[:, None] + table, 0),  # [entities, most mentions of an entity]
        "present": present,  # the same shape
        "first": np.concatenate([unordered_pairs(own.entities)[0] for own in layout]),  # [unordered pairs]
        "second": np.concatenate([unordered_pairs(own.entities)[1] for own in layout]),
        "order": np.concatenate([pair_order(own.entities) for own in layout]),  # [pairs]
    }
    return {**{name: torch.from_numpy(array) for name, array in arrays.items()}, "layout": layout}
