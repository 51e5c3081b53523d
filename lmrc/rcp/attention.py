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

from lmrc.errors import UserError


def last_self_attention(encoder: PreTrainedModel) -> nn.Module:
    """The self-attention of the last layer: the last module with linear layers `query` and `key`.

    Raises UserError for an encoder that has none, or whose attention is not softmax(query key^T / sqrt(head size)).
    """
    found = [
        module
        for module in encoder.modules()
        if isinstance(getattr(module, "query", None), nn.Linear) and isinstance(getattr(module, "key", None), nn.Linear)
    ]
    if not found or not _agrees_with_eager(encoder, found[-1]):
        raise UserError(
            f"the encoder {type(encoder).__name__} does not give the attention of its last layer, which localized "
            "context pooling needs; choose a BERT- or RoBERTa-like encoder in model.encoder"
        )
    last: nn.Module = found[-1]
    return last


@contextmanager
def caught(attention: nn.Module) -> Iterator[dict[str, Tensor]]:
    """While open, the last forward pass leaves "query" and "key" [windows, width, heads * head size] in the dict."""
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


def attention_rows(query: Tensor, key: Tensor, attention_mask: Tensor, positions: Tensor, heads: int) -> Tensor:
    """Rows of the attention matrix.

    query, key: [windows, width, d]; attention_mask: [windows, width], 0 at padding; positions: [windows, rows]. Returns
    float32 (float64 for float64) [windows, rows, heads, width].
    """
    windows, width, d = query.shape
    rows = positions.shape[1]
    with torch.autocast(query.device.type, enabled=False):
        wanted = query.gather(1, positions.unsqueeze(-1).expand(-1, -1, d))
        # Half precision is too coarse for the products of attention that follow.
        exact = torch.promote_types(query.dtype, torch.float32)
        wanted = wanted.to(exact).view(windows, rows, heads, d // heads)
        keys = key.to(exact).view(windows, width, heads, d // heads)
        scores = torch.einsum("wrhd,wkhd->wrhk", wanted, keys) * (d // heads) ** -0.5
        padding = (attention_mask == 0)[:, None, None, :]
        weights: Tensor = scores.masked_fill(padding, float("-inf")).softmax(-1)
    return weights


@torch.no_grad()
def _agrees_with_eager(encoder: PreTrainedModel, attention: nn.Module) -> bool:
    """Whether our rows are those of the encoder's own attention, tried on a few word pieces."""
    config = encoder.config
    training, implementation = encoder.training, config._attn_implementation
    device = next(encoder.parameters()).device
    ids = torch.arange(8, device=device).remainder(config.vocab_size)[None]
    ids = ids.masked_fill(ids == config.pad_token_id, config.vocab_size - 1)
    mask = (torch.arange(8, device=device) < 6).long()[None]
    encoder.eval()
    encoder.set_attn_implementation("eager")
    try:
        with caught(attention) as seen:
            output = encoder(input_ids=ids, attention_mask=mask, output_attentions=True)
    finally:
        encoder.set_attn_implementation(implementation)
        encoder.train(training)
    attentions = getattr(output, "attentions", None)
    if not attentions or any(value.shape[:2] != ids.shape for value in seen.values()):
        return False
    expected = attentions[-1].transpose(1, 2)
    positions = torch.arange(8, device=device)[None]
    rows = attention_rows(seen["query"], seen["key"], mask, positions, config.num_attention_heads)
    return expected.shape == rows.shape and torch.allclose(rows, expected.to(rows), atol=1e-6)
