"""Pair classifiers: the bilinear form of the paper (equations 5 and 6) and the grouped one of the published code.

Both return the outputs of the pairs (first, second) and of (second, first), which have the same context. Neither
materializes an outer product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lmrc.config.schema import ClassifierKind
from lmrc.rcp.data.features import NO_FEATURES, NUM_DISTANCE_CLASSES, Features

# (outputs, (z_head, z_tail)); see `_PairProjection.forward`.
PairOutputs = tuple[Tensor, tuple[Tensor, Tensor]]
# Entities up to which rows are selected by a product, whose time grows with their number. DocRED has at most 42.
MAX_PRODUCT_ROWS = 128


class _PairProjection(nn.Module):
    """Base of the classifiers: equation 5, tanh(W_s h + W_c c) for heads and for tails.

    Embeddings of features are added before tanh.
    """

    def __init__(self, d: int, width: int, features: Features) -> None:
        super().__init__()
        self.width = width
        self._features = features
        # W_s and W_c of head and tail. The two W_c are one matrix. Initialized as nn.Linear(2d, width) for each.
        self.head = nn.Linear(d, width)
        self.tail = nn.Linear(d, width)
        self.context = nn.Linear(d, 2 * width, bias=False)
        for parameter in (*self.head.parameters(), *self.tail.parameters(), *self.context.parameters()):
            nn.init.uniform_(parameter, -((2 * d) ** -0.5), (2 * d) ** -0.5)
        if features.types:
            # Row 0, for unknown types, stays zero.
            rows = 1 + len(features.types)
            self.head_type = _zero_embedding(rows, width, padding_idx=0)
            self.tail_type = _zero_embedding(rows, width, padding_idx=0)
        if features.distance:
            self.distance = _zero_embedding(NUM_DISTANCE_CLASSES, 2 * width)

    def forward(
        self,
        entities: Tensor,
        contexts: Tensor,
        first: Tensor,
        second: Tensor,
        types: Tensor | None = None,
        distances: Tensor | None = None,
    ) -> PairOutputs:
        """Classify pairs of entities.

        Args:
            entities: entity embeddings, [entities, d].
            contexts: context of each pair, [pairs, d].
            first: entity index, [pairs].
            second: entity index, [pairs].
            types: type index of each entity (`lmrc.rcp.data.features`), [entities]; None if not used.
            distances: distance class of each pair, [pairs]; None if not used.

        Returns:
            The outputs of (first, second) and of (second, first), float32 [2, pairs, outputs]; the projections z of
            head and tail, both [2 * pairs, width].
        """
        z_head, z_tail = self.project(entities, contexts, first, second, types, distances)
        with torch.autocast(entities.device.type, enabled=False):
            dtype = torch.promote_types(z_head.dtype, torch.float32)
            outputs = self.score(z_head.to(dtype), z_tail.to(dtype))
        return outputs.view(2, -1, outputs.shape[1]), (z_head, z_tail)

    def score(self, z_head: Tensor, z_tail: Tensor) -> Tensor:
        """Return the outputs of pairs (equation 6).

        Args:
            z_head: projections of the heads, at least float32, [pairs, width].
            z_tail: projections of the tails, [pairs, width].
        """
        raise NotImplementedError

    def project(
        self,
        entities: Tensor,
        contexts: Tensor,
        first: Tensor,
        second: Tensor,
        types: Tensor | None,
        distances: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return z of heads and of tails (equation 5), both [2 * pairs, width].

        The rows are the pairs (first, second), followed by (second, first).
        """
        head, tail, context = self.head(entities), self.tail(entities), self.context(contexts)
        if self._features.types:
            head, tail = head + self.head_type(types).to(head.dtype), tail + self.tail_type(types).to(tail.dtype)
        if self._features.distance:
            context = context + self.distance(distances).to(context.dtype)
        context_head, context_tail = context.repeat(2, 1).chunk(2, dim=1)
        heads, tails = select_rows(head, tail, first, second)
        z_head, z_tail = torch.tanh(heads + context_head), torch.tanh(tails + context_tail)
        return z_head, z_tail


def select_rows(head: Tensor, tail: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of heads and of tails, both [2 * pairs, width], but sum their gradients in float32.

    For few rows these are products with matrices of zeros and ones. They are exact, and deterministic on a GPU, unlike
    the gradient of `index_select`.

    Args:
        head: row of each entity as a head, [entities, width].
        tail: row of each entity as a tail, [entities, width].
        first: entity index, [pairs].
        second: entity index, [pairs].

    Returns:
        The rows `head[first]` and `head[second]`; the rows `tail[second]` and `tail[first]`.
    """
    pairs = torch.stack([first, second])
    if len(head) > MAX_PRODUCT_ROWS:
        dtype = torch.promote_types(head.dtype, torch.float32)
        rows = head.to(dtype).index_select(0, pairs.flatten()), tail.to(dtype).index_select(0, pairs.flip(0).flatten())
        return rows[0].to(head.dtype), rows[1].to(tail.dtype)
    one_hot = (pairs.unsqueeze(2) == torch.arange(len(head), device=head.device)).to(head.dtype)
    return one_hot.flatten(0, 1) @ head, one_hot.flip(0).flatten(0, 1) @ tail


def _zero_embedding(rows: int, width: int, padding_idx: int | None = None) -> nn.Embedding:
    # Draws no random number, so that a seed gives the other weights the values of a model without features.
    weight, make = torch.zeros(rows, width), nn.Embedding.from_pretrained
    embedding: nn.Embedding = make(weight, freeze=False, padding_idx=padding_idx)  # type: ignore[no-untyped-call]
    return embedding


class BilinearClassifier(_PairProjection):
    """Bilinear classifier of the paper, with one output: the logit of P(relation).

    Equation 6 is P(NA) = 1 - P(relation).
    """

    def __init__(self, d: int, features: Features = NO_FEATURES) -> None:
        super().__init__(d, d, features)
        # z^T W z' sums d^2 products with |z| < 1. This scale keeps initial logits around 1 or smaller for every d;
        # with nn.Bilinear they grow with sqrt(d).
        self.bilinear = nn.Linear(d, d, bias=False)
        nn.init.normal_(self.bilinear.weight, std=1 / d)
        self.bias = nn.Parameter(torch.zeros(1))

    def score(self, z_head: Tensor, z_tail: Tensor) -> Tensor:
        """Return the outputs, [pairs, 1], of projections [pairs, d]."""
        outputs: Tensor = (z_head * self.bilinear(z_tail)).sum(1, keepdim=True) + self.bias
        return outputs

    @staticmethod
    def logits(outputs: Tensor) -> Tensor:
        """Return the logits of P(relation), [pairs], of outputs [pairs, 1]."""
        return outputs.squeeze(1)


class GroupedClassifier(_PairProjection):
    """Grouped bilinear classifier of the published code, with two outputs: no relation and relation.

    z has 12 blocks of 64 numbers; the outputs are sums of a bilinear form per block. The published code computes 12
    outer products of 64 x 64 numbers per pair and multiplies them by a matrix, `weight`.
    """

    WIDTH = 768
    BLOCK = 64

    def __init__(self, d: int, features: Features = NO_FEATURES) -> None:
        super().__init__(d, self.WIDTH, features)
        inputs = self.WIDTH * self.BLOCK
        self.weight = nn.Parameter(torch.empty(2, inputs).uniform_(-(inputs**-0.5), inputs**-0.5))
        self.bias = nn.Parameter(torch.empty(2).uniform_(-(inputs**-0.5), inputs**-0.5))

    def score(self, z_head: Tensor, z_tail: Tensor) -> Tensor:
        """Return the outputs, [pairs, 2], of projections [pairs, 768]."""
        groups, block = self.WIDTH // self.BLOCK, self.BLOCK
        heads, tails = (z.view(-1, groups, block).transpose(0, 1) for z in (z_head, z_tail))
        # [groups, block of the head, outputs * block of the tail]
        weight = self.weight.to(z_head.dtype).view(2, groups, block, block).permute(1, 2, 0, 3).flatten(2)
        products = torch.bmm(heads, weight).view(groups, -1, 2, block)  # [groups, pairs, outputs, block]
        return (products * tails.unsqueeze(2)).sum((0, 3)) + self.bias

    @staticmethod
    def logits(outputs: Tensor) -> Tensor:
        """Return the logits of P(relation), [pairs], of outputs [pairs, 2].

        A logit is half the difference of the outputs, because each of them is trained to be that logit.
        """
        return (outputs[:, 1] - outputs[:, 0]) / 2


CLASSIFIERS: dict[ClassifierKind, type[BilinearClassifier] | type[GroupedClassifier]] = {
    "bilinear": BilinearClassifier,
    "grouped": GroupedClassifier,
}
