"""The encoder over windows laid end to end: no padding is computed.

Works with any encoder of transformers whose attention goes through its attention interface and whose positions are
given by `position_ids`; `PackedEncoder` tries the encoder once against its own eager attention and refuses others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lmrc.common.errors import UserError
from lmrc.rcp.data.windows import Windows
from lmrc.rcp.model.marker_attention import attention_rows, caught, last_self_attention
from lmrc.rcp.model.recompute import recompute_in_backward
from lmrc.rcp.model.window_attention import IMPLEMENTATION


class PackedEncoder:
    """Runs an encoder without padding. Holds no weights: the encoder stays where it is registered."""

    def __init__(self, encoder: PreTrainedModel) -> None:
        """Sets the encoder's attention. Raises UserError where the encoder cannot be run so."""
        self._encoder = encoder
        self._attention = last_self_attention(encoder)
        self.windows = Windows.of(encoder)
        self.heads = encoder.config.num_attention_heads
        if self._attention is None or not self._agrees_with_eager():
            # Not in the pre-flight: it shows in a forward pass.
            raise UserError(
                f"the encoder {type(encoder).__name__} does not give the attention of its last layer, which localized "
                "context pooling needs; choose a BERT- or RoBERTa-like encoder in model.encoder"
            )

    def __call__(
        self, input_ids: Tensor, position_ids: Tensor, windows: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """input_ids, position_ids: [tokens], windows of the given lengths one after the other.

        Returns hidden states [tokens, d], and the last layer's queries and keys [tokens, heads * head size].
        """
        assert self._attention is not None
        with caught(self._attention) as seen, recompute_in_backward():
            output = self._encoder(input_ids=input_ids[None], position_ids=position_ids[None], windows=tuple(windows))
        return output.last_hidden_state[0], seen["query"][0], seen["key"][0]

    @torch.no_grad()
    def _agrees_with_eager(self) -> bool:
        """Whether packed windows come out as the encoder's own attention gives them, tried on a few word pieces."""
        encoder, training = self._encoder, self._encoder.training
        device = next(encoder.parameters()).device
        windows = [3, 7, 5]
        ids = torch.arange(sum(windows), device=device).remainder(encoder.config.vocab_size)
        ids = ids.masked_fill(ids == encoder.config.pad_token_id, encoder.config.vocab_size - 1)
        places = torch.cat([torch.arange(length, device=device) for length in windows]) + self.windows.first_position
        encoder.eval()
        try:
            encoder.set_attn_implementation("eager")
            expected = [encoder(input_ids=window[None], output_attentions=True) for window in torch.split(ids, windows)]
            encoder.set_attn_implementation(IMPLEMENTATION)
            hidden, query, key = self(ids, places, windows)
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError):
            return False
        finally:
            encoder.train(training)
        if len(hidden) != sum(windows) or any(len(rows) != sum(windows) for rows in (query, key)):
            return False
        parts = zip(expected, *(torch.split(part, windows) for part in (hidden, query, key)), strict=True)
        return all(_same(output, states, q, k, self.heads) for output, states, q, k in parts)


def _same(output: Any, hidden: Tensor, query: Tensor, key: Tensor, heads: int) -> bool:
    attentions = getattr(output, "attentions", None)
    if not attentions or attentions[-1].shape[-1] != len(hidden):
        return False
    rows = attention_rows(query, key, heads)
    return torch.allclose(rows, attentions[-1][0].to(rows), atol=1e-5) and torch.allclose(
        hidden, output.last_hidden_state[0], atol=1e-3
    )
