"""Block-diagonal attention over concatenated windows, registered in transformers for `PackedEncoder`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

IMPLEMENTATION = "packed_windows"


def packed_window_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    windows: Sequence[int] = (),
    **unused: Any,
) -> tuple[Tensor, None]:
    """Return the attention output of windows that attend to themselves only (flash attention if available).

    Args:
        module: the attention layer; not used.
        query: queries, [1, heads, tokens, head size].
        key: keys, [1, heads, tokens, head size].
        value: values, [1, heads, tokens, head size].
        attention_mask: not used.
        dropout: dropout probability of attention weights.
        scaling: scale of the scores; by default, 1 / sqrt(head size).
        windows: window lengths, which sum to `tokens`; by default, a single window.
        unused: other arguments of the attention interface.

    Returns:
        The output, [1, tokens, heads, head size], and None instead of attention weights.
    """
    lengths = list(windows) or [query.shape[2]]
    if matmul_is_faster(query) and not dropout:
        attention = matmul_attention
    else:
        attention = partial(F.scaled_dot_product_attention, dropout_p=dropout)
    outputs = [
        attention(q, k, v, scale=scaling).transpose(1, 2)
        for q, k, v in zip(*(torch.split(tensor, lengths, 2) for tensor in (query, key, value)), strict=True)
    ]
    return torch.cat(outputs, 1), None


def matmul_is_faster(query: Tensor) -> bool:
    """Return True for bf16 training on a CPU, where torch's fused kernel has a slow backward pass (see benchmarks/)."""
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.requires_grad


def matmul_attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """Compute scaled dot product attention by matrix products, without dropout.

    The backward pass keeps the attention weights of the window, [1, heads, length, length].
    """
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    return ((query * factor) @ key.transpose(-1, -2)).softmax(-1) @ value


AttentionInterface.register(IMPLEMENTATION, packed_window_attention)
