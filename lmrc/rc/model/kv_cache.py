"""What an LM has read of texts that it goes on with: keys and values of every layer, and the layouts that use them.

Several texts, each at a place of its own, go through the LM in one pass, whatever the number of their new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lmrc.rc.model.packed_attention import Block, attention, causal_blocks, run

_ROOM = 64
"""Tokens that a memory grows by at least: it is copied when it is full."""


class KVCache:
    """The keys and values of one text."""

    def __init__(self, beginning: KVCache | None = None) -> None:
        """`beginning`: of a text that this one goes on from; it is not changed."""
        self.length: int = beginning.length if beginning else 0
        """Tokens read."""
        # [1, key heads, capacity, size] by layer. A beginning is copied at the first token written behind it.
        self._keys: dict[int, Tensor] = dict(beginning._keys) if beginning else {}
        self._values: dict[int, Tensor] = dict(beginning._values) if beginning else {}
        self._own = False

    def look(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Keys and values [1, key heads, length, size] of what was read."""
        if layer not in self._keys:
            return None
        return self._keys[layer][:, :, : self.length], self._values[layer][:, :, : self.length]

    def write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keep what a layer makes of new tokens [1, key heads, new, size]; returns all of the text, new ones included.

        `length` grows only when all layers have written: see `IncrementalLayout.finish`.
        """
        end = self.length + key.shape[2]
        for store, new in ((self._keys, key), (self._values, value)):
            buffer = store.get(layer)
            if buffer is None or not self._own or buffer.shape[2] < end:
                larger = new.new_empty(1, new.shape[1], end + max(_ROOM, end // 8), new.shape[3])
                if buffer is not None:
                    larger[:, :, : self.length] = buffer[:, :, : self.length]
                store[layer] = larger
            store[layer][:, :, self.length : end] = new
        return self._keys[layer][:, :, :end], self._values[layer][:, :, :end]

    def finish(self, new: int) -> None:
        """All layers have written `new` tokens."""
        self.length += new
        self._own = True


class IncrementalLayout:
    """New tokens of several texts, end to end, which their caches will keep (a `lmrc.rc.model.packed_attention.AttentionLayout`)."""

    def __init__(self, caches: Sequence[KVCache], lengths: Sequence[int]) -> None:
        self.layers: set[int] = set()
        self._memories, self._lengths = caches, list(lengths)
        self._blocks: dict[torch.device, list[list[Block]]] = {}

    @property
    def longest(self) -> int:
        """See `lmrc.rc.model.packed_attention.AttentionLayout`."""
        return max(memory.length + new for memory, new in zip(self._memories, self._lengths, strict=True))

    def positions(self) -> Tensor:
        """int64 [tokens]"""
        pairs = zip(self._memories, self._lengths, strict=True)
        return torch.cat([torch.arange(memory.length, memory.length + new) for memory, new in pairs])

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """See `lmrc.rc.model.packed_attention.AttentionLayout`."""
        self.layers.add(layer)
        device = query.device
        if device not in self._blocks:
            pairs = zip(self._memories, self._lengths, strict=True)
            self._blocks[device] = [causal_blocks(new, memory.length + new, device) for memory, new in pairs]
        parts = (torch.split(part, self._lengths, 2) for part in (query, key, value))
        outputs = []
        for memory, blocks, q, k, v in zip(self._memories, self._blocks[device], *parts, strict=True):
            keys, values = memory.write(layer, k, v)
            outputs.append(attention(q, keys, values, scale, blocks))
        return torch.cat(outputs, 2).transpose(1, 2)

    def finish(self) -> None:
        """The pass is over."""
        for memory, new in zip(self._memories, self._lengths, strict=True):
            memory.finish(new)


class TreeLayout:
    """Possible continuations of texts, as a tree behind each (a `AttentionLayout`). Nothing is kept of them."""

    def __init__(self, caches: Sequence[KVCache], parents: Sequence[Sequence[int]]) -> None:
        """`parents`: for each text and each token of its tree the index of the token before it there, or -1."""
        self.layers: set[int] = set()
        self._memories, self._lengths = caches, [len(tree) for tree in parents]
        self._depths: list[list[int]] = []
        self._seen: list[Tensor] = []
        for tree in parents:
            depths: list[int] = []
            seen = torch.eye(len(tree), dtype=torch.bool)
            for token, parent in enumerate(tree):
                depths.append(depths[parent] + 1 if parent >= 0 else 0)
                if parent >= 0:
                    seen[token] |= seen[parent]
            self._depths.append(depths)
            self._seen.append(seen)
        self._masks: dict[torch.device, list[Tensor]] = {}

    @property
    def longest(self) -> int:
        """See `lmrc.rc.model.packed_attention.AttentionLayout`."""
        return max(memory.length + 1 + max(depths) for memory, depths in zip(self._memories, self._depths, strict=True))

    def positions(self) -> Tensor:
        """int64 [tokens]"""
        pairs = zip(self._memories, self._depths, strict=True)
        return torch.tensor([memory.length + depth for memory, depths in pairs for depth in depths])

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """See `lmrc.rc.model.packed_attention.AttentionLayout`."""
        self.layers.add(layer)
        device = query.device
        if device not in self._masks:
            pairs = zip(self._memories, self._seen, strict=True)
            self._masks[device] = [
                torch.cat([torch.ones(len(seen), memory.length, dtype=torch.bool), seen], 1).to(device)
                for memory, seen in pairs
            ]
        parts = (torch.split(part, self._lengths, 2) for part in (query, key, value))
        outputs = []
        for memory, mask, q, k, v in zip(self._memories, self._masks[device], *parts, strict=True):
            read = memory.look(layer)
            if read is not None:
                k, v = torch.cat([read[0], k], 2), torch.cat([read[1], v], 2)
            outputs.append(attention(q, k, v, scale, [(0, len(mask), mask)]))
        return torch.cat(outputs, 2).transpose(1, 2)


@torch.inference_mode()
def read(model: nn.Module, caches: Sequence[KVCache], texts: Sequence[Sequence[int]]) -> Tensor:
    """Read on in each text, in one pass. Returns the logits [texts, vocabulary] behind the last token of each.

    Raises UserError where the LM cannot (`lmrc.rc.model.packed_attention.run`).
    """
    device = next(model.parameters()).device
    lengths = [len(text) for text in texts]
    layout = IncrementalLayout(caches, lengths)
    ids = torch.tensor([token for text in texts for token in text], device=device)
    last = torch.tensor(lengths, device=device).cumsum(0) - 1
    logits = run(model, ids, layout.positions().to(device), layout, last)
    layout.finish()
    return logits


class PrefixCache:
    """The beginning of all prompts (instruction and relation set), read once."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids = list(ids)
        self._memory: KVCache | None = None

    def of(self, model: nn.Module, prompt: Sequence[int]) -> tuple[KVCache, Sequence[int]]:
        """A memory to read a prompt with, and what of it is still to be read; at least its last token."""
        length = len(self._ids)
        if not length or len(prompt) <= length or list(prompt[:length]) != self._ids:
            return KVCache(), prompt
        if self._memory is None:
            memory = KVCache()
            read(model, [memory], [self._ids])
            self._memory = memory
        return KVCache(self._memory), prompt[length:]
