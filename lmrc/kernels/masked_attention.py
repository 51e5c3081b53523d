"""Attention of one sequence by torch's scaled dot product attention, with masks in blocks of queries."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Queries per mask. Keys after the last query of a block are left out, so that masks stay small.
_BLOCK = 256
# First query, end of the queries, and mask [queries, keys] over the keys up to the last query.
Block = tuple[int, int, Tensor]


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float | None,
    blocks: Sequence[Block] = (),
    causal: bool = True,
) -> Tensor:
    """Compute softmax attention of the last tokens of a sequence to the whole sequence.

    Args:
        query: [1, heads, new, head size].
        key: [1, key heads, tokens, head size].
        value: like `key`.
        scale: factor of the scores; by default 1 / sqrt(head size).
        blocks: masks; without them `new` must be 1 or `tokens` if attention is causal.
        causal: whether a token attends to no later one, if there are no masks.

    Returns:
        Like `query`.
    """
    grouped = query.shape[1] != key.shape[1]
    if not blocks:
        causal = causal and query.shape[2] > 1
        return F.scaled_dot_product_attention(query, key, value, is_causal=causal, scale=scale, enable_gqa=grouped)
    if grouped and query.device.type == "cuda":
        # With a mask and grouped heads, torch would choose the kernel that keeps the whole attention matrix.
        groups = query.shape[1] // key.shape[1]
        key, value, grouped = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1), False
    outputs = []
    for start, end, mask in blocks:
        keys = mask.shape[1]
        parts = query[:, :, start:end], key[:, :, :keys], value[:, :, :keys]
        outputs.append(F.scaled_dot_product_attention(*parts, attn_mask=mask, scale=scale, enable_gqa=grouped))
    return torch.cat(outputs, 2)


def causal_blocks(new: int, tokens: int, device: torch.device) -> list[Block]:
    """Return the causal masks for the last `new` tokens of a sequence; empty if `attention` needs none."""
    if new in (1, tokens):
        return []
    blocks: list[Block] = []
    for start in range(0, new, _BLOCK):
        end = min(start + _BLOCK, new)
        before = tokens - new + start
        mask = torch.ones(end - start, before + end - start, dtype=torch.bool, device=device).tril(before)
        blocks.append((start, end, mask))
    return blocks
