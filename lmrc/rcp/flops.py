"""Model FLOPs of RCP: the encoder per word piece, and the classifier per pair (see `lmrc.usage.flops`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lmrc.usage.flops import TRAINED, attention_flops, matrix_weights

if TYPE_CHECKING:
    from torch import nn

# Layers of a classifier that are applied once per entity, which is few, or (context) once per unordered pair.
PER_ENTITY = ("head", "tail")
PER_UNORDERED_PAIR = "context"


@dataclass(frozen=True)
class RcpFlops:
    """Sizes that determine the operations of a document.

    Attributes:
        encoder: weights of the encoder that a word piece is multiplied with.
        pair: weights that an ordered pair is multiplied with.
        window: word pieces that an encoder reads at once.
    """

    encoder: int
    pair: int
    layers: int
    hidden: int
    window: int

    @classmethod
    def of(cls, encoder: Any, classifier: nn.Module, relation_head: nn.Module | None, window: int) -> RcpFlops:
        """Return the sizes of a model, which may be on the meta device.

        Args:
            encoder: a BERT-like model of transformers.
            window: word pieces that it reads at once.
        """
        weights = matrix_weights(encoder, ("pooler",))
        config = encoder.config
        # The grouped classifier holds its products as a parameter.
        own = [parameter for parameter in classifier.parameters(recurse=False) if parameter.dim() > 1]
        pair = sum(parameter.numel() for parameter in own)
        counted = matrix_weights(classifier, (*PER_ENTITY, PER_UNORDERED_PAIR))
        pair += counted.trained + counted.frozen
        others = tuple(name for name, _ in classifier.named_children() if name != PER_UNORDERED_PAIR)
        context = matrix_weights(classifier, others)
        pair += (context.trained + context.frozen) // 2
        if relation_head is not None:
            pair += matrix_weights(relation_head).trained
        return cls(
            weights.trained + weights.frozen, pair, int(config.num_hidden_layers), int(config.hidden_size), window
        )

    def training(self, pieces: int, pairs: int) -> float:
        """Return the operations of a document, forward and backward.

        Args:
            pieces: word pieces.
            pairs: ordered pairs of entities.
        """
        attention = attention_flops(self.layers, self.hidden, pieces, min(pieces, self.window))
        # The context of a pair is a weighted sum of all hidden states.
        contexts = TRAINED * pairs / 2 * pieces * self.hidden
        return TRAINED * (self.encoder * pieces + self.pair * pairs) + attention + contexts
