"""Encoder over concatenated windows, without padding.

It works with any encoder of transformers that uses the attention interface and takes `position_ids`. `PackedEncoder`
compares the encoder once with its own eager attention, and rejects it if they disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lmrc.common.errors import UserError
from lmrc.kernels.varlen_attention import VarlenLayout
from lmrc.rcp.data.windows import Windows
from lmrc.rcp.model.linear_casts import LinearCasts
from lmrc.rcp.model.marker_attention import attention_rows, capture_query_key, last_self_attention
from lmrc.rcp.model.window_attention import IMPLEMENTATION


class PackedEncoder:
    """Wrapper that runs an encoder on concatenated windows. It is not a module: the encoder is registered elsewhere."""

    def __init__(self, encoder: PreTrainedModel) -> None:
        """Set the encoder's attention implementation.

        Raises:
            UserError: if the encoder's attention does not follow the interface.
        """
        self._encoder = encoder
        self._attention = last_self_attention(encoder)
        self._casts = LinearCasts(encoder)
        self.windows = Windows.of(encoder)
        self.num_heads = encoder.config.num_attention_heads
        if self._attention is None or not self._agrees_with_eager():
            # Not in the pre-flight: it shows in a forward pass.
            raise UserError(
                f"the encoder {type(encoder).__name__} does not give the attention of its last layer, which localized "
                "context pooling needs; choose a BERT- or RoBERTa-like encoder in model.encoder"
            )

    def __call__(
        self, input_ids: Tensor, position_ids: Tensor, windows: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the encoder.

        Args:
            input_ids: word pieces of all windows, [tokens].
            position_ids: their positions, [tokens].
            windows: window lengths, which sum to `tokens`.

        Returns:
            Hidden states [tokens, d]; queries and keys of the last layer, both [tokens, heads * head size].
        """
        assert self._attention is not None
        layout = VarlenLayout.of(windows)
        with capture_query_key(self._attention) as captured, self._casts.active():
            output = self._encoder(input_ids=input_ids[None], position_ids=position_ids[None], layout=layout)
        query, key = captured["query"].squeeze(0), captured["key"].squeeze(0)
        return output.last_hidden_state.squeeze(0), query, key

    @torch.no_grad()
    def _agrees_with_eager(self) -> bool:
        """Return True if packed windows give the same result as eager attention, on a few word pieces."""
        encoder, training = self._encoder, self._encoder.training
        device = next(encoder.parameters()).device
        windows = [3, 7, 5]
        ids = torch.arange(sum(windows), device=device).remainder(encoder.config.vocab_size)
        ids = ids.masked_fill(ids == encoder.config.pad_token_id, encoder.config.vocab_size - 1)
        positions = torch.cat([torch.arange(length, device=device) for length in windows]) + self.windows.first_position
        encoder.eval()
        try:
            encoder.set_attn_implementation("eager")
            expected = [encoder(input_ids=window[None], output_attentions=True) for window in torch.split(ids, windows)]
            encoder.set_attn_implementation(IMPLEMENTATION)
            hidden, query, key = self(ids, positions, windows)
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError):
            return False
        finally:
            encoder.train(training)
        if len(hidden) != sum(windows) or any(len(rows) != sum(windows) for rows in (query, key)):
            return False
        packed = zip(expected, *(torch.split(tensor, windows) for tensor in (hidden, query, key)), strict=True)
        return all(_matches(output, states, q, k, self.num_heads) for output, states, q, k in packed)


def _matches(output: Any, hidden: Tensor, query: Tensor, key: Tensor, num_heads: int) -> bool:
    attentions = getattr(output, "attentions", None)
    if not attentions or attentions[-1].shape[-1] != len(hidden):
        return False
    rows = attention_rows(query, key, num_heads)
    return torch.allclose(rows, attentions[-1][0].to(rows), atol=1e-5) and torch.allclose(
        hidden, output.last_hidden_state[0], atol=1e-3
    )
