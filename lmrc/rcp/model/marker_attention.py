"""Attention of the encoder's last layer, only at the markers (the A of equation 1).

The encoder runs with its fast kernel, which gives no attention weights; the last layer's queries and keys are caught on
the way, and the few rows that pooling needs are computed from them. Gradients flow through them as through the layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def last_self_attention(encoder: PreTrainedModel) -> nn.Module | None:
    """The self-attention of the last layer: the last module with linear layers `query` and `key`; None without any."""
    found = [
        module
        for module in encoder.modules()
        if isinstance(getattr(module, "query", None), nn.Linear) and isinstance(getattr(module, "key", None), nn.Linear)
    ]
    return found[-1] if found else None


@contextmanager
def caught(attention: nn.Module) -> Iterator[dict[str, Tensor]]:
    """While open, the last forward pass leaves "query" and "key" [..., heads * head size] in the dict."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = output

        layer = getattr(attention, name)
        assert isinstance(layer, nn.Linear)
        return layer.register_forward_hook(hook)

    handles = [keep("query"), keep("key")]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def attention_rows(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """Rows of a window's attention matrix.

    query: [rows, heads * head size]; key: [length, heads * head size]. Returns float32 (float64 for float64) [heads,
    rows, length].
    """
    (rows, d), length = query.shape, key.shape[0]
    with torch.autocast(query.device.type, enabled=False):
        # Half precision is too coarse for the products of attention that follow.
        exact = torch.promote_types(query.dtype, torch.float32)
        wanted = query.to(exact).view(rows, heads, d // heads).transpose(0, 1) * (d // heads) ** -0.5
        keys = key.to(exact).view(length, heads, d // heads).permute(1, 2, 0)
        weights: Tensor = (wanted @ keys).softmax(-1)
    return weights
