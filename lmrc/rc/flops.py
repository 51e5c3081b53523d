"""Model FLOPs of RC: a frozen LM with LoRA per token, and its output layer per target (see `lmrc.usage.flops`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmrc.usage.flops import ATTENTION_FORWARD, FROZEN, MatrixWeights, attention_flops, matrix_weights

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

OUTPUT = "lm_head"


@dataclass(frozen=True)
class RcFlops:
    """Sizes that determine the operations of a query.

    Attributes:
        weights: weights that a token is multiplied with, without the output layer.
        output: weights of the output layer.
        width: heads x head size.
    """

    weights: MatrixWeights
    output: int
    layers: int
    width: int

    @classmethod
    def of(cls, model: nn.Module, config: PretrainedConfig) -> RcFlops:
        """Return the sizes of an LM, with its adapter if it has one. It may be on the meta device."""
        text = config.get_text_config()
        weights, all_weights = matrix_weights(model, (OUTPUT,)), matrix_weights(model)
        output = all_weights.frozen + all_weights.trained - weights.frozen - weights.trained
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return cls(weights, output, int(text.num_hidden_layers), int(text.num_attention_heads * head))

    def training(self, tokens: int, targets: int) -> float:
        """Return the operations of a query of `tokens`, forward and backward, with the loss on `targets` of them."""
        attention = attention_flops(self.layers, self.width, tokens, tokens / 2)
        return self.weights.training_flops * tokens + FROZEN * self.output * targets + attention

    def forward(self, tokens: int, context: float) -> float:
        """Return the operations of reading tokens that attend to `context` positions on average."""
        attention = attention_flops(self.layers, self.width, tokens, context, ATTENTION_FORWARD)
        return self.weights.forward_flops * tokens + attention
