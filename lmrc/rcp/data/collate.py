"""Collation of tokenized documents into a batch, with all indices of the forward pass computed on the CPU.

The windows of all documents are concatenated without padding. Lengths and counts are Python integers
(`DocumentShape`), so that the forward pass never synchronizes with the device.
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
    """Sizes of a document in a batch.

    Attributes:
        length: word pieces of the document.
        window_lengths: tokens of each window.
        num_mentions: mentions whose opening marker is not truncated.
        num_entities: entities.
    """

    length: int
    window_lengths: tuple[int, ...]
    num_mentions: int
    num_entities: int

    @property
    def num_unordered_pairs(self) -> int:
        """Return the number of pairs a < b of entities."""
        return self.num_entities * (self.num_entities - 1) // 2


@dataclass(frozen=True, slots=True)
class Pairs:
    """Sorted pairs a < b of a document's entities.

    Attributes:
        first: entity a, [pairs].
        second: entity b, [pairs].
        distances: distance classes (`lmrc.rcp.data.features`), [pairs]; None if the model does not use them.
        relations: gold relations of (a, b) and of (b, a), bool [2, pairs, relations]; None in inference, and
            without a relation head.
    """

    first: Tensor
    second: Tensor
    distances: Tensor | None
    relations: Tensor | None

    @classmethod
    def of(cls, batch: Batch) -> list[Pairs]:
        """Return all pairs of each document of a batch."""
        counts = [shape.num_unordered_pairs for shape in batch["shapes"]]

        def split(name: str) -> Sequence[Tensor | None]:
            return torch.split(batch[name], counts) if name in batch else [None] * len(counts)

        relations: Sequence[Tensor | None] = [None] * len(counts)
        if "relations" in batch:
            both = torch.split(batch["relations"], [2 * count for count in counts])
            relations = [rows.view(2, count, rows.shape[1]) for rows, count in zip(both, counts, strict=True)]
        columns = *map(split, ("first", "second", "distances")), relations
        return [cls(*fields) for fields in zip(*columns, strict=True)]

    def __getitem__(self, pairs: slice) -> Pairs:
        """Return a slice of the pairs."""
        return Pairs(
            self.first[pairs],
            self.second[pairs],
            None if self.distances is None else self.distances[pairs],
            None if self.relations is None else self.relations[:, pairs],
        )


@lru_cache(maxsize=256)
def unordered_pairs(num_entities: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sorted pairs a < b: all a and all b, each [entities * (entities - 1) / 2]."""
    first, second = np.triu_indices(num_entities, 1)
    return first, second


@lru_cache(maxsize=256)
def ordered_pair_indices(num_entities: int) -> NDArray[np.int64]:
    """Return the index of each ordered pair in the list of all (a, b) followed by all (b, a), a < b.

    Returns:
        Indices of the ordered pairs sorted by (h, t), [pairs].
    """
    first, second = unordered_pairs(num_entities)
    index = np.zeros((num_entities, num_entities), dtype=np.int64)
    index[first, second] = np.arange(len(first))
    index[second, first] = len(first) + np.arange(len(first))
    return index[~np.eye(num_entities, dtype=np.bool_)]


def collate(documents: Sequence[EncodedDocument], windows: Windows, first_position: int) -> Batch:
    """Return a batch of CPU tensors, and "shapes", a DocumentShape per document.

    Args:
        documents: tokenized documents.
        windows: window layout of the encoder.
        first_position: position id of the first token of a window.
    """
    split = [windows.split(document.input_ids) for document in documents]
    markers = [np.array(list(chain.from_iterable(document.marker_positions)), dtype=np.int64) for document in documents]
    shapes = [
        DocumentShape(len(document.input_ids), tuple(map(len, own)), len(positions), document.num_entities)
        for document, own, positions in zip(documents, split, markers, strict=True)
    ]
    tokens = list(chain.from_iterable(split))
    window_starts = np.cumsum([0, *map(len, tokens)])
    # (positions, mask) per window.
    located = [
        window
        for shape, positions in zip(shapes, markers, strict=True)
        for window in windows.locate(positions, shape.length)
    ]

    pair_starts = np.cumsum([0, *(2 * shape.num_unordered_pairs for shape in shapes[:-1])])
    mention_counts = np.array(
        [len(positions) for document in documents for positions in document.marker_positions], dtype=np.int64
    )
    columns = np.arange(mention_counts.max(initial=0) or 1)
    mention_mask = columns < mention_counts[:, None]
    first_mention = np.cumsum(mention_counts) - mention_counts
    arrays = {
        "input_ids": np.concatenate(tokens).astype(np.int64),  # [tokens]
        "position_ids": np.concatenate([np.arange(len(window)) for window in tokens]) + first_position,  # [tokens]
        # Per window, for each mention of its document: index of its marker in "input_ids", and whether the window
        # contains it.
        "marker_tokens": np.concatenate([at + start for (at, _), start in zip(located, window_starts, strict=False)]),
        "marker_mask": np.concatenate([mask for _, mask in located]),
        # Per mention of all documents, [mentions]: its position in the document, its entity, and 1 / number of mentions
        # of that entity.
        "marker_positions": np.concatenate(markers),
        "mention_entity": np.concatenate(
            [
                np.repeat(np.arange(document.num_entities), list(map(len, document.marker_positions)))
                for document in documents
            ]
        ),
        "mention_weight": np.repeat(1 / np.maximum(mention_counts, 1), mention_counts),
        # Indices of the mentions of each entity, and their mask, [entities, maximum mentions per entity].
        "entity_mentions": np.where(mention_mask, first_mention[:, None] + columns, 0),
        "entity_mention_mask": mention_mask,
        # Pairs a < b of all documents, [unordered pairs].
        "first": np.concatenate([unordered_pairs(shape.num_entities)[0] for shape in shapes]),
        "second": np.concatenate([unordered_pairs(shape.num_entities)[1] for shape in shapes]),
        # Per ordered pair, its index in the list of all (a, b) and then all (b, a) of each document, [pairs].
        "pair_indices": np.concatenate(
            [start + ordered_pair_indices(shape.num_entities) for start, shape in zip(pair_starts, shapes, strict=True)]
        ),
    }
    return {**{name: torch.from_numpy(array) for name, array in arrays.items()}, "shapes": shapes}
