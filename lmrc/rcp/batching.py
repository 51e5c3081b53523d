"""Encoded documents as one batch of tensors, everything the forward pass indexes by computed beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmrc.rcp.markers import EncodedDocument
from lmrc.rcp.windows import Windows

Batch = dict[str, Any]


@lru_cache(maxsize=256)
def unordered_pairs(entities: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs a < b of a document, sorted: (all a, all b), each [entities * (entities - 1) / 2]."""
    first, second = np.triu_indices(entities, 1)
    return first, second


@lru_cache(maxsize=256)
def _numbers(entities: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """For the ordered pairs (h, t) sorted by (h, t): the number of their unordered pair, and whether h > t."""
    first, second = unordered_pairs(entities)
    number = np.zeros((entities, entities), dtype=np.int64)
    number[first, second] = number[second, first] = np.arange(len(first))
    heads, tails = np.nonzero(~np.eye(entities, dtype=np.bool_))
    return number[heads, tails], heads > tails


def collate(documents: Sequence[EncodedDocument], windows: Windows, padding: int) -> Batch:
    """One batch of CPU tensors; "documents" is a list of plain numbers, so that the forward pass need not wait for any.

    The documents are concatenated: their windows, their mentions, their entities, their pairs.
    """
    entities = [document.entities for document in documents]
    positions = [np.array(list(chain.from_iterable(document.markers)), dtype=np.int64) for document in documents]
    mentions = [len(places) for places in positions]
    pieces = [windows.cut(document.input_ids) for document in documents]
    cut = list(chain.from_iterable(pieces))
    input_ids = np.full((len(cut), max(map(len, cut))), padding, dtype=np.int64)
    attention_mask = np.zeros_like(input_ids)
    rows = np.zeros((len(cut), max(mentions)), dtype=np.int64)
    inside = np.zeros(rows.shape, dtype=np.bool_)
    places = [
        place
        for document, at in zip(documents, positions, strict=True)
        for place in windows.places(at, len(document.input_ids))
    ]
    for index, (window, (at, held)) in enumerate(zip(cut, places, strict=True)):
        input_ids[index, : len(window)] = window
        attention_mask[index, : len(window)] = 1
        rows[index, : len(at)] = at
        inside[index, : len(at)] = held

    per_entity = [len(markers) for document in documents for markers in document.markers]
    table = np.arange(max(per_entity, default=0) or 1)
    present = table < np.array(per_entity, dtype=np.int64)[:, None]
    begin = np.cumsum([0, *per_entity])[:-1]
    mentions_of = np.where(present, begin[:, None] + table, 0)
    average = np.zeros((len(per_entity), sum(mentions)), dtype=np.float32)
    average[np.repeat(np.arange(len(per_entity)), per_entity), np.arange(sum(mentions))] = np.repeat(
        1 / np.maximum(per_entity, 1), per_entity
    )

    entity_offsets = [0, *accumulate(entities)]
    unordered = [unordered_pairs(count) for count in entities]
    pair_offsets = [0, *accumulate(len(first) for first, _ in unordered)]
    first = [pairs[0] + offset for pairs, offset in zip(unordered, entity_offsets, strict=False)]
    second = [pairs[1] + offset for pairs, offset in zip(unordered, entity_offsets, strict=False)]
    order = [
        number + offset + reverse * pair_offsets[-1]
        for (number, reverse), offset in zip(map(_numbers, entities), pair_offsets, strict=False)
    ]
    arrays = {
        "input_ids": input_ids,  # [windows, width]
        "attention_mask": attention_mask,  # [windows, width]
        "rows": rows,  # [windows, most markers of a document]: where its markers are in the window
        "inside": inside,  # the same shape: whether they are in it
        "markers": np.concatenate(positions),  # [mentions]: where they are in their document
        "mentions": mentions_of,  # [entities, most mentions of an entity]
        "present": present,  # the same shape
        "average": average,  # [entities, mentions]
        "first": np.concatenate(first),  # [unordered pairs]
        "second": np.concatenate(second),
        "order": np.concatenate(order),  # [pairs]
    }
    return {
        **{name: torch.from_numpy(array) for name, array in arrays.items()},
        "documents": [
            {
                "length": len(document.input_ids),
                "windows": len(own),
                "mentions": mention_count,
                "entities": document.entities,
                "pairs": document.pairs,
            }
            for document, own, mention_count in zip(documents, pieces, mentions, strict=True)
        ],
    }


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on `device`."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }
