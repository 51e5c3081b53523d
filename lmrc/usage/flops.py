"""Model FLOPs: the floating-point operations of a model's matrix products, without what an implementation adds.

A matrix of `n` weights takes 2n operations per token forward (a multiplication and an addition each), 2n for the
gradient of its input, and 2n for that of its weights. A frozen matrix takes the first two only: LoRA needs gradients
of its inputs, but not of its weights. Attention takes 4 x width operations per pair of positions and layer forward
(scores and weighted sum), and twice as many backward. A causal token attends to half of its text on average.
Recomputed activations, embeddings, norms and losses do not count.

Sources: Chowdhery et al. 2022 (PaLM), appendix B, who count causal attention in full; Korthikanti et al. 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

# Operations per weight and token: forward, gradient of the input, gradient of the weight.
TRAINED, FROZEN, FORWARD = 6, 4, 2
# Operations per pair of positions, layer and unit of width: forward alone, and with the backward pass.
ATTENTION_FORWARD, ATTENTION_TRAINING = 4, 12


@dataclass(frozen=True)
class MatrixWeights:
    """Numbers of weights in matrices that a token is multiplied with."""

    trained: int
    frozen: int

    @property
    def training_flops(self) -> int:
        """Return the operations per token, forward and backward."""
        return TRAINED * self.trained + FROZEN * self.frozen

    @property
    def forward_flops(self) -> int:
        """Return the operations per token of a forward pass."""
        return FORWARD * (self.trained + self.frozen)


def matrix_weights(module: nn.Module, leave_out: tuple[str, ...] = ()) -> MatrixWeights:
    """Count the weights in the linear layers of a module.

    The shapes of the layers are counted, because quantization packs their weights and ZeRO-3 shards them.

    Args:
        leave_out: last parts of the names of layers that are not counted, such as lm_head.
    """
    from torch import nn

    counts = {True: 0, False: 0}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and name.rpartition(".")[2] not in leave_out:
            counts[layer.weight.requires_grad] += layer.in_features * layer.out_features
    return MatrixWeights(counts[True], counts[False])


def attention_flops(
    layers: int, width: int, tokens: int, context: float, operations: int = ATTENTION_TRAINING
) -> float:
    """Return the operations of attention.

    Args:
        width: heads x head size.
        tokens: number of tokens.
        context: positions that a token attends to, on average.
    """
    return operations * layers * width * tokens * context
