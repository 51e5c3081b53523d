"""Attention of the encoder's last layer at the opening markers (A in equation 1).

Fused kernels return no attention weights. Forward hooks capture the queries and keys of the last layer, and the few
rows that pooling needs are computed from them. Gradients flow through the captured tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def last_self_attention(encoder: PreTrainedModel) -> nn.Module | None:
    """Return the last module with linear layers `query` and `key`, or None if there is none."""
    layers = [
        module
        for module in encoder.modules()
        if isinstance(getattr(module, "query", None), nn.Linear) and isinstance(getattr(module, "key", None), nn.Linear)
    ]
    return layers[-1] if layers else None


@contextmanager
def capture_query_key(attention: nn.Module) -> Iterator[dict[str, Tensor]]:
    """While active, capture the "query" and "key" of the last forward pass, [..., heads * head size]."""
    captured: dict[str, Tensor] = {}

    def capture(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            captured[name] = output

        layer = getattr(attention, name)
        assert isinstance(layer, nn.Linear)
        return layer.register_forward_hook(hook)

    handles = [capture("query"), capture("key")]
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()


def attention_rows(query: Tensor, key: Tensor, num_heads: int) -> Tensor:
    """Return rows of a window's attention matrix, [heads, rows, length].

    They are float32, or float64 for float64 inputs.

    Args:
        query: queries of the rows, [rows, heads * head size].
        key: keys of the window, [length, heads * head size].
        num_heads: number of attention heads.
    """
    (rows, d), length = query.shape, key.shape[0]
    head_size = d // num_heads
    with torch.autocast(query.device.type, enabled=False):
        # Half precision is too coarse for the products of attention in pooling.
        dtype = torch.promote_types(query.dtype, torch.float32)
        queries = query.to(dtype).view(rows, num_heads, head_size).transpose(0, 1) * head_size**-0.5
        keys = key.to(dtype).view(length, num_heads, head_size).permute(1, 2, 0)
        weights: Tensor = (queries @ keys).softmax(-1)
    return weights
