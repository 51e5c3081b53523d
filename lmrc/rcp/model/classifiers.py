"""From entities and contexts to P(relation): the paper's bilinear form (equations 5 and 6), and the published code's.

Both are called with entities [entities, d], contexts [pairs, d] of the pairs of entities (first, second), each [pairs],
and, where they know these features, types [entities] and distances [pairs] (`lmrc.rcp.data.features`). They return float32
[2, pairs, outputs]: of (first, second) and of (second, first), which have the same context; and the sides z these are
made of. Neither ever holds an outer product.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmrc.config.schema import ClassifierKind
from lmrc.rcp.data.features import DISTANCES, NO_FEATURES, Features

Classified = tuple[Tensor, tuple[Tensor, Tensor]]


class _PairProjection(nn.Module):
    """Equation 5: tanh(W_s h + W_c c) for heads and for tails; embeddings of features are added before tanh."""

    def __init__(self, d: int, width: int, features: Features) -> None:
        super().__init__()
        self.width = width
        self._features = features
        # W_s and W_c of both sides; the two W_c are one product. Together they are nn.Linear(2d, width) a side.
        self.head = nn.Linear(d, width)
        self.tail = nn.Linear(d, width)
        self.context = nn.Linear(d, 2 * width, bias=False)
        for parameter in (*self.head.parameters(), *self.tail.parameters(), *self.context.parameters()):
            nn.init.uniform_(parameter, -((2 * d) ** -0.5), (2 * d) ** -0.5)
        if features.types:
            # Row 0, of unknown types, stays zero.
            rows = 1 + len(features.types)
            self.head_type, self.tail_type = _zeros(rows, width, padding=0), _zeros(rows, width, padding=0)
        if features.distance:
            self.distance = _zeros(DISTANCES, 2 * width)

    def forward(
        self,
        entities: Tensor,
        contexts: Tensor,
        first: Tensor,
        second: Tensor,
        types: Tensor | None = None,
        distances: Tensor | None = None,
    ) -> Classified:
        """See the module."""
        z_head, z_tail = self.sides(entities, contexts, first, second, types, distances)
        with torch.autocast(entities.device.type, enabled=False):
            exact = torch.promote_types(z_head.dtype, torch.float32)
            outputs = self.form(z_head.to(exact), z_tail.to(exact))
        return outputs.view(2, -1, outputs.shape[1]), (z_head, z_tail)

    def form(self, z_head: Tensor, z_tail: Tensor) -> Tensor:
        """The outputs of pairs by their sides, in float32 at least: equation 6."""
        raise NotImplementedError

    def sides(
        self,
        entities: Tensor,
        contexts: Tensor,
        first: Tensor,
        second: Tensor,
        types: Tensor | None,
        distances: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """z of the heads and of the tails, each [2 * pairs, width]: (first, second) and then (second, first)."""
        head, tail, context = self.head(entities), self.tail(entities), self.context(contexts)
        if self._features.types:
            head, tail = head + self.head_type(types).to(head.dtype), tail + self.tail_type(types).to(tail.dtype)
        if self._features.distance:
            context = context + self.distance(distances).to(context.dtype)
        context_head, context_tail = context.repeat(2, 1).chunk(2, dim=1)
        heads, tails = torch.cat([first, second]), torch.cat([second, first])
        z_head = torch.tanh(head.index_select(0, heads) + context_head)
        z_tail = torch.tanh(tail.index_select(0, tails) + context_tail)
        return z_head, z_tail


def _zeros(rows: int, width: int, padding: int | None = None) -> nn.Embedding:
    # No random number is drawn for it: the other weights of a seed are those of a model without it.
    weight, make = torch.zeros(rows, width), nn.Embedding.from_pretrained
    embedding: nn.Embedding = make(weight, freeze=False, padding_idx=padding)  # type: ignore[no-untyped-call]
    return embedding


class BilinearClassifier(_PairProjection):
    """Equation 6, one output: the logit of P(relation), not of the P(NA) = 1 - P(relation) of equation 6."""

    def __init__(self, d: int, features: Features = NO_FEATURES) -> None:
        super().__init__(d, d, features)
        # z^T W z' sums d^2 products of |z| < 1: logits start around 1 at most, whatever d (nn.Bilinear's grow with
        # sqrt(d)).
        self.bilinear = nn.Linear(d, d, bias=False)
        nn.init.normal_(self.bilinear.weight, std=1 / d)
        self.bias = nn.Parameter(torch.zeros(1))

    def form(self, z_head: Tensor, z_tail: Tensor) -> Tensor:
        """Of sides [2 * pairs, d]: [2 * pairs, 1]."""
        outputs: Tensor = (z_head * self.bilinear(z_tail)).sum(1, keepdim=True) + self.bias
        return outputs

    @staticmethod
    def logits(outputs: Tensor) -> Tensor:
        """Logits of P(relation) [pairs] of outputs [pairs, 1]."""
        return outputs.squeeze(1)

    @staticmethod
    def loss(outputs: Tensor, targets: Tensor, positive_weight: float = 1.0) -> Tensor:
        """Binary cross entropy of outputs [pairs, 1] against targets [pairs] in {0, 1}, summed.

        A pair whose target is 1 counts `positive_weight` times.
        """
        weight = 1 + (positive_weight - 1) * targets
        return F.binary_cross_entropy_with_logits(outputs.squeeze(1), targets, weight, reduction="sum")


class GroupedClassifier(_PairProjection):
    """The published code's: z of 768 in blocks of 64, a bilinear form a block, summed; two outputs (NA, relation).

    There each pair becomes 12 outer products of 64 x 64, 49,152 numbers; `weight` is the matrix they are multiplied by.
    """

    WIDTH = 768
    BLOCK = 64

    def __init__(self, d: int, features: Features = NO_FEATURES) -> None:
        super().__init__(d, self.WIDTH, features)
        inputs = self.WIDTH * self.BLOCK
        self.weight = nn.Parameter(torch.empty(2, inputs).uniform_(-(inputs**-0.5), inputs**-0.5))
        self.bias = nn.Parameter(torch.empty(2).uniform_(-(inputs**-0.5), inputs**-0.5))

    def form(self, z_head: Tensor, z_tail: Tensor) -> Tensor:
        """Of sides [2 * pairs, 768]: [2 * pairs, 2]."""
        groups, block = self.WIDTH // self.BLOCK, self.BLOCK
        heads, tails = (z.view(-1, groups, block).transpose(0, 1) for z in (z_head, z_tail))
        # [groups, block of the head, outputs * block of the tail]
        weight = self.weight.to(z_head.dtype).view(2, groups, block, block).permute(1, 2, 0, 3).flatten(2)
        forms = torch.bmm(heads, weight).view(groups, -1, 2, block)  # [groups, 2 * pairs, outputs, block]
        return (forms * tails.unsqueeze(2)).sum((0, 3)) + self.bias

    @staticmethod
    def logits(outputs: Tensor) -> Tensor:
        """Logits of P(relation) [pairs] of outputs [pairs, 2]: above 0 where the second output is the larger one.

        Half the difference, for either output alone is trained to be that logit.
        """
        return (outputs[:, 1] - outputs[:, 0]) / 2

    @staticmethod
    def loss(outputs: Tensor, targets: Tensor, positive_weight: float = 1.0) -> Tensor:
        """Binary cross entropy of both outputs [pairs, 2] against one-hot targets, their mean summed over pairs.

        A pair whose target is 1 counts `positive_weight` times.
        """
        one_hot = torch.stack([1 - targets, targets], 1)
        weight = (1 + (positive_weight - 1) * targets).unsqueeze(1)
        return F.binary_cross_entropy_with_logits(outputs, one_hot, weight, reduction="sum") / 2


CLASSIFIERS: dict[ClassifierKind, type[BilinearClassifier] | type[GroupedClassifier]] = {
    "bilinear": BilinearClassifier,
    "grouped": GroupedClassifier,
}
