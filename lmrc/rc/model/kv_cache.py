"""KV cache for several sequences, and the attention layouts (incremental, tree) that use it.

The sequences of a pool share one buffer of keys and one of values per layer, so that a layer needs one write and one
attention call for all of them. A forward pass may add any number of tokens to each sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from weakref import WeakSet

import torch
from torch import Tensor, nn

from lmrc.kernels.masked_attention import attention
from lmrc.kernels.varlen_attention import VarlenLayout, varlen_attention
from lmrc.rc.model.packed_attention import packed_forward

# Spare tokens of a region at least.
_MIN_SPARE = 64


class KVPool:
    """Buffers with the keys and values of several sequences.

    Each cache has a region of the buffers until it is garbage collected.
    """

    def __init__(self) -> None:
        # Per layer: keys and values, each [key heads, size, head size]. Kernels read the keys of a head one by one.
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}
        self._size = 0
        self._caches = WeakSet[KVCache]()

    def add(self, cache: KVCache) -> None:
        """Add a cache, which has no region before `reserve`."""
        self._caches.add(cache)

    def reserve(self, caches: Sequence[KVCache], lengths: Sequence[int]) -> None:
        """Give each of `caches` a region for so many tokens, with some to spare. What is cached is kept.

        Args:
            lengths: number of tokens of each cache after the next pass.
        """
        short = {
            cache: length + max(_MIN_SPARE, length // 8)
            for cache, length in zip(caches, lengths, strict=True)
            if length > cache.capacity
        }
        if short and not self._move_to_gaps(short):
            self._lay_out(short)

    def _move_to_gaps(self, capacities: dict[KVCache, int]) -> bool:
        """Move the caches into gaps between regions, if there are such gaps for all of them."""
        regions = [(cache.start, cache.capacity) for cache in self._caches if cache.capacity]
        starts: list[int] = []
        for capacity in capacities.values():
            regions.sort()
            ends = [0, *(start + size for start, size in regions)]
            limits = [*(start for start, _ in regions), self._size]
            fitting = (end for end, limit in zip(ends, limits, strict=True) if limit - end >= capacity)
            start = next(fitting, None)
            if start is None:
                return False
            starts.append(start)
            regions.append((start, capacity))
        old, new = list[int](), list[int]()
        for cache, start in zip(capacities, starts, strict=True):
            old += range(cache.content_start, cache.content_start + cache.length)
            new += range(start, start + cache.length)
        for cache, start in zip(capacities, starts, strict=True):
            cache.move(start, capacities[cache])
        if old:
            copies: dict[torch.device, Tensor] = {}
            for buffers in self._buffers.values():
                index = _on_device(copies, torch.tensor([old, new]), buffers[0].device)
                for buffer in buffers:
                    buffer.index_copy_(1, index[1], buffer.index_select(1, index[0]))
        return True

    def _lay_out(self, capacities: dict[KVCache, int]) -> None:
        """Give each cache a new region, one after the other. Caches without a new capacity keep theirs."""
        index, moves, start = list[int](), list[tuple[KVCache, int, int]](), 0
        for cache in sorted(self._caches, key=lambda cache: cache.content_start):
            capacity = capacities.get(cache, cache.capacity)
            index += range(cache.content_start, cache.content_start + min(cache.length, capacity))
            index += [0] * (start + capacity - len(index))
            moves.append((cache, start, capacity))
            start += capacity
        for move in moves:
            move[0].move(*move[1:])
        self._size = start
        copies: dict[torch.device, Tensor] = {}
        for layer, (keys, values) in self._buffers.items():
            on_device = _on_device(copies, torch.tensor(index), keys.device)
            # One layer after the other, so that only one layer is in memory twice.
            self._buffers[layer] = (keys.index_select(1, on_device), values.index_select(1, on_device))

    def get(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Return the keys and values of a layer, each [key heads, size, head size]; None before the first pass."""
        return self._buffers.get(layer)

    def update(self, layer: int, indices: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write keys and values of new tokens.

        Args:
            indices: index of each token in the buffers, int64 [tokens].
            key: [key heads, tokens, head size].
            value: like `key`.

        Returns:
            The buffers, each [key heads, size, head size].
        """
        if layer not in self._buffers:
            sizes = [(new.shape[0], self._size, new.shape[2]) for new in (key, value)]
            self._buffers[layer] = (key.new_empty(sizes[0]), value.new_empty(sizes[1]))
        keys, values = self._buffers[layer]
        return keys.index_copy_(1, indices, key), values.index_copy_(1, indices, value)


class KVCache:
    """Keys and values of one sequence: a region of a pool.

    Attributes:
        length: number of cached tokens.
        start: index of the first token of the region.
        capacity: number of tokens of the region.
    """

    def __init__(self, pool: KVPool, prefix: KVCache | None = None) -> None:
        """Create a cache.

        Args:
            prefix: cache of a shared prefix in the same pool, to start from; copied before the first pass.
        """
        self.pool = pool
        self.length: int = prefix.length if prefix else 0
        self.start = self.capacity = 0
        self._prefix = prefix
        pool.add(self)

    @property
    def content_start(self) -> int:
        """Index of the first cached token: that of the prefix, before it is copied."""
        return self._prefix.start if self._prefix else self.start

    def move(self, start: int, capacity: int) -> None:
        """Set the region. A cache that has none yet goes on with its prefix."""
        self.start, self.capacity = start, capacity
        if capacity:
            self._prefix = None

    def get(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Return the cached keys and values of a layer, each [key heads, length, head size]."""
        buffers = self.pool.get(layer)
        if not self.length or buffers is None:
            return None
        keys, values = (buffer.narrow(1, self.content_start, self.length) for buffer in buffers)
        return keys, values


def _on_device(copies: dict[torch.device, Tensor], tensor: Tensor, device: torch.device) -> Tensor:
    """Return the copy of a tensor on a device, which is made once: the layers of one LM may be on several."""
    if device not in copies:
        copies[device] = tensor.to(device, non_blocking=True)
    return copies[device]


class IncrementalLayout:
    """Layout (`AttentionLayout`) of new tokens of several sequences, which are appended to their caches."""

    def __init__(self, caches: Sequence[KVCache], lengths: Sequence[int]) -> None:
        """Create a layout.

        Args:
            caches: caches of one pool, in the order of their regions, which have room for the new tokens.
            lengths: number of new tokens of each sequence.
        """
        self.layers: set[int] = set()
        self._caches, self._lengths, self._pool = caches, list(lengths), caches[0].pool
        pairs = list(zip(caches, lengths, strict=True))
        key_lengths = [cache.length + new for cache, new in pairs]
        self._varlen = VarlenLayout.of(lengths, key_lengths, [cache.start for cache in caches])
        # Position in its sequence and index in the buffers of each new token.
        positions = [position for cache, new in pairs for position in range(cache.length, cache.length + new)]
        starts = [cache.start for cache, new in pairs for _ in range(new)]
        self._positions = torch.tensor(positions)
        self._indices = self._positions + torch.tensor(starts)
        self._copies: dict[torch.device, Tensor] = {}

    @property
    def max_length(self) -> int:
        """See `AttentionLayout`."""
        return self._varlen.max_seqlen_k

    def positions(self) -> Tensor:
        """Return the position of each new token in its sequence, int64 [tokens]."""
        return self._positions

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """See `AttentionLayout`."""
        self.layers.add(layer)
        indices = _on_device(self._copies, self._indices, key.device)
        keys, values = self._pool.update(layer, indices, key[0], value[0])
        query, keys, values = (part.transpose(0, 1) for part in (query[0], keys, values))
        return varlen_attention(query, keys, values, self._varlen, causal=True, scale=scale)[None]

    def advance(self) -> None:
        """Advance the caches after a forward pass."""
        for cache, new in zip(self._caches, self._lengths, strict=True):
            cache.length += new


class TreeLayout:
    """Layout (`AttentionLayout`) of a tree of continuations per sequence (tree attention); nothing is cached."""

    def __init__(self, caches: Sequence[KVCache], parents: Sequence[Sequence[int]]) -> None:
        """Create a layout.

        Args:
            parents: for each sequence, the index in its tree of each token's parent, or -1.
        """
        self.layers: set[int] = set()
        self._caches, self._lengths = caches, [len(tree) for tree in parents]
        self._depths: list[list[int]] = []
        # Per tree: whether a token attends to another, bool [tokens, tokens].
        self._ancestors: list[Tensor] = []
        for tree in parents:
            depths: list[int] = []
            ancestors = torch.eye(len(tree), dtype=torch.bool)
            for token, parent in enumerate(tree):
                depths.append(depths[parent] + 1 if parent >= 0 else 0)
                if parent >= 0:
                    ancestors[token] |= ancestors[parent]
            self._depths.append(depths)
            self._ancestors.append(ancestors)
        self._masks: dict[torch.device, list[Tensor]] = {}

    @property
    def max_length(self) -> int:
        """See `AttentionLayout`."""
        return max(cache.length + 1 + max(depths) for cache, depths in zip(self._caches, self._depths, strict=True))

    def positions(self) -> Tensor:
        """Return the position of each token of the trees in its sequence, int64 [tokens]."""
        pairs = zip(self._caches, self._depths, strict=True)
        return torch.tensor([cache.length + depth for cache, depths in pairs for depth in depths])

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """See `AttentionLayout`."""
        self.layers.add(layer)
        device = query.device
        if device not in self._masks:
            pairs = zip(self._caches, self._ancestors, strict=True)
            self._masks[device] = [
                torch.cat([torch.ones(len(ancestors), cache.length, dtype=torch.bool), ancestors], 1).to(device)
                for cache, ancestors in pairs
            ]
        parts = (torch.split(part, self._lengths, 2) for part in (query, key, value))
        outputs = []
        for cache, mask, q, k, v in zip(self._caches, self._masks[device], *parts, strict=True):
            cached = cache.get(layer)
            if cached is not None:
                k, v = torch.cat([cached[0][None], k], 2), torch.cat([cached[1][None], v], 2)
            outputs.append(attention(q, k, v, scale, [(0, len(mask), mask)]))
        return torch.cat(outputs, 2).transpose(1, 2)


@torch.inference_mode()
def extend_caches(model: nn.Module, caches: Sequence[KVCache], token_ids: Sequence[Sequence[int]]) -> Tensor:
    """Append new tokens to each sequence in one forward pass. The host does not wait for the device.

    Args:
        caches: caches of one pool.
        token_ids: the new tokens of each sequence.

    Returns:
        Logits after the last token of each sequence, [sequences, vocabulary].

    Raises:
        UserError: if the LM does not support this (see `packed_forward`).
    """
    device = next(model.parameters()).device
    caches[0].pool.reserve(caches, [cache.length + len(ids) for cache, ids in zip(caches, token_ids, strict=True)])
    order = sorted(range(len(caches)), key=lambda row: caches[row].start)
    lengths = [len(token_ids[row]) for row in order]
    layout = IncrementalLayout([caches[row] for row in order], lengths)
    last = dict(zip(order, accumulate(lengths), strict=True))
    # One copy to the device for all inputs.
    inputs = [
        torch.tensor([token for row in order for token in token_ids[row]]),
        layout.positions(),
        torch.tensor([last[row] - 1 for row in range(len(caches))]),
    ]
    on_device = torch.cat(inputs).to(device, non_blocking=True)
    input_ids, positions, logit_positions = torch.split(on_device, [len(part) for part in inputs])
    logits = packed_forward(model, input_ids, positions, layout, logit_positions)
    layout.advance()
    return logits


class PrefixCache:
    """KV cache of the prefix that all prompts share (instruction and relation set), and the pool of the prompts."""

    def __init__(self, prefix: Sequence[int]) -> None:
        """Create an empty cache.

        Args:
            prefix: token ids of the prefix; may be empty.
        """
        self._prefix = list(prefix)
        self.clear()

    def clear(self) -> None:
        """Release the memory of the pool. Caches of earlier calls of `lookup` must not be used any more."""
        self._pool = KVPool()
        self._cache: KVCache | None = None

    def lookup(self, model: nn.Module, prompt: Sequence[int]) -> tuple[KVCache, Sequence[int]]:
        """Return a cache to read a prompt with, and the tokens of the prompt that it lacks, at least the last one.

        The prefix is computed at the first call that needs it.
        """
        length = len(self._prefix)
        if not length or len(prompt) <= length or list(prompt[:length]) != self._prefix:
            return KVCache(self._pool), prompt
        if self._cache is None:
            cache = KVCache(self._pool)
            extend_caches(model, [cache], [self._prefix])
            self._cache = cache
        return KVCache(self._pool, self._cache), prompt[length:]
