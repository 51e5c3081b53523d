"""KV cache for several sequences, and the attention layouts (incremental, tree) that use it.

Each sequence has its own cache. A forward pass may add any number of tokens to each of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lmrc.kernels.masked_attention import Block, attention, causal_blocks
from lmrc.rc.model.packed_attention import packed_forward

# Tokens by which the capacity of a cache grows at least.
_MIN_GROWTH = 64


class KVCache:
    """Keys and values of one sequence, per layer.

    Attributes:
        length: number of cached tokens.
    """

    def __init__(self, prefix: KVCache | None = None) -> None:
        """Create a cache.

        Args:
            prefix: cache of a shared prefix to start from; copied on first write.
        """
        self.length: int = prefix.length if prefix else 0
        # Per layer: [1, key heads, capacity, head size].
        self._keys: dict[int, Tensor] = dict(prefix._keys) if prefix else {}
        self._values: dict[int, Tensor] = dict(prefix._values) if prefix else {}
        self._owns_buffers = False

    def get(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Return the cached keys and values of a layer, each [1, key heads, length, head size]."""
        if layer not in self._keys:
            return None
        return self._keys[layer][:, :, : self.length], self._values[layer][:, :, : self.length]

    def update(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append the keys and values of new tokens to a layer.

        `length` does not change before `advance`, because every layer appends the same tokens.

        Args:
            key: [1, key heads, new tokens, head size].
            value: like `key`.

        Returns:
            Keys and values of the whole sequence, each [1, key heads, length + new tokens, head size].
        """
        end = self.length + key.shape[2]
        for buffers, new in ((self._keys, key), (self._values, value)):
            buffer = buffers.get(layer)
            if buffer is None or not self._owns_buffers or buffer.shape[2] < end:
                larger = new.new_empty(1, new.shape[1], end + max(_MIN_GROWTH, end // 8), new.shape[3])
                if buffer is not None:
                    larger[:, :, : self.length] = buffer[:, :, : self.length]
                buffers[layer] = larger
            buffers[layer][:, :, self.length : end] = new
        return self._keys[layer][:, :, :end], self._values[layer][:, :, :end]

    def advance(self, tokens: int) -> None:
        """Increase `length` after all layers have appended `tokens` tokens."""
        self.length += tokens
        self._owns_buffers = True


class IncrementalLayout:
    """Layout (`AttentionLayout`) of new tokens of several sequences, which are appended to their caches."""

    def __init__(self, caches: Sequence[KVCache], lengths: Sequence[int]) -> None:
        self.layers: set[int] = set()
        self._caches, self._lengths = caches, list(lengths)
        # Per device, because the layers of one LM may be on several.
        self._blocks: dict[torch.device, list[list[Block]]] = {}

    @property
    def max_length(self) -> int:
        """See `AttentionLayout`."""
        return max(cache.length + new for cache, new in zip(self._caches, self._lengths, strict=True))

    def positions(self) -> Tensor:
        """Return the position of each new token in its sequence, int64 [tokens]."""
        pairs = zip(self._caches, self._lengths, strict=True)
        return torch.cat([torch.arange(cache.length, cache.length + new) for cache, new in pairs])

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """See `AttentionLayout`."""
        self.layers.add(layer)
        device = query.device
        if device not in self._blocks:
            pairs = zip(self._caches, self._lengths, strict=True)
            self._blocks[device] = [causal_blocks(new, cache.length + new, device) for cache, new in pairs]
        parts = (torch.split(part, self._lengths, 2) for part in (query, key, value))
        outputs = []
        for cache, blocks, q, k, v in zip(self._caches, self._blocks[device], *parts, strict=True):
            keys, values = cache.update(layer, k, v)
            outputs.append(attention(q, keys, values, scale, blocks))
        return torch.cat(outputs, 2).transpose(1, 2)

    def advance(self) -> None:
        """Advance the caches after a forward pass."""
        for cache, new in zip(self._caches, self._lengths, strict=True):
            cache.advance(new)


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
                k, v = torch.cat([cached[0], k], 2), torch.cat([cached[1], v], 2)
            outputs.append(attention(q, k, v, scale, [(0, len(mask), mask)]))
        return torch.cat(outputs, 2).transpose(1, 2)


@torch.inference_mode()
def extend_caches(model: nn.Module, caches: Sequence[KVCache], token_ids: Sequence[Sequence[int]]) -> Tensor:
    """Append new tokens to each sequence in one forward pass.

    Args:
        token_ids: the new tokens of each sequence.

    Returns:
        Logits after the last token of each sequence, [sequences, vocabulary].

    Raises:
        UserError: if the LM does not support this (see `packed_forward`).
    """
    device = next(model.parameters()).device
    lengths = [len(ids) for ids in token_ids]
    layout = IncrementalLayout(caches, lengths)
    input_ids = torch.tensor([token for ids in token_ids for token in ids], device=device)
    last = torch.tensor(lengths, device=device).cumsum(0) - 1
    logits = packed_forward(model, input_ids, layout.positions().to(device), layout, last)
    layout.advance()
    return logits


class PrefixCache:
    """KV cache of the prefix that all prompts share (instruction and relation set)."""

    def __init__(self, prefix: Sequence[int]) -> None:
        """Create an empty cache.

        Args:
            prefix: token ids of the prefix; may be empty.
        """
        self._prefix = list(prefix)
        self._cache: KVCache | None = None

    def lookup(self, model: nn.Module, prompt: Sequence[int]) -> tuple[KVCache, Sequence[int]]:
        """Return a cache to read a prompt with, and the tokens of the prompt that it lacks, at least the last one.

        The prefix is computed at the first call that needs it.
        """
        length = len(self._prefix)
        if not length or len(prompt) <= length or list(prompt[:length]) != self._prefix:
            return KVCache(), prompt
        if self._cache is None:
            cache = KVCache()
            extend_caches(model, [cache], [self._prefix])
            self._cache = cache
        return KVCache(self._cache), prompt[length:]
