"""Block-diagonal attention over concatenated windows, registered in transformers for `PackedEncoder`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface

from lmrc.kernels.varlen_attention import VarlenLayout, varlen_attention

IMPLEMENTATION = "packed_windows"


def packed_window_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    layout: VarlenLayout | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Return the attention output of windows that attend to themselves only.

    Args:
        module: the attention layer; not used.
        query: queries, [1, heads, tokens, head size].
        key: keys, [1, heads, tokens, head size].
        value: values, [1, heads, tokens, head size].
        attention_mask: not used.
        dropout: dropout probability of attention weights; must be 0.
        scaling: scale of the scores; by default, 1 / sqrt(head size).
        layout: window lengths; by default, a single window.
        unused: other arguments of the attention interface.

    Returns:
        The output, [1, tokens, heads, head size], and None instead of attention weights.

    Raises:
        ValueError: if `dropout` is not 0.
    """
    if dropout:
        raise ValueError(
            f"attention dropout is {dropout}, but pooling needs all attention weights: set the encoder's "
            "attention_probs_dropout_prob to 0"
        )
    layout = layout or VarlenLayout.of([query.shape[2]])
    query, key, value = (part.squeeze(0).transpose(0, 1) for part in (query, key, value))
    return varlen_attention(query, key, value, layout, causal=False, scale=scaling)[None], None


AttentionInterface.register(IMPLEMENTATION, packed_window_attention)
