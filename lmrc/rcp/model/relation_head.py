"""A further task while training: which relations a pair has. Not of the paper; its layers are not part of the model.

It teaches the encoder and the sides z (equation 5) what the relations are that a pair may have.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Label
from lmrc.rcp.data.collate import pair_order

WIDTH = 256
# P(relation) of 0.0025 before the first step: hardly any pair has any given relation.
BIAS = -6.0


class AuxiliaryRelationHead(nn.Module):
    """From the sides z of pairs to the binary cross entropy of every relation."""

    def __init__(self, width: int, relations: int) -> None:
        """`width`: of z."""
        super().__init__()
        self.head = nn.Linear(width, WIDTH)
        self.tail = nn.Linear(width, WIDTH)
        self.relation = nn.Linear(WIDTH, relations)
        nn.init.constant_(self.relation.bias, BIAS)

    def forward(self, z_head: Tensor, z_tail: Tensor, gold: Tensor) -> Tensor:
        """The loss of each pair, summed over relations: [2, pairs], float32.

        z_head, z_tail: [2 * pairs, width], as a classifier gives them; gold: [2, pairs, relations], True where the
        relation holds.
        """
        sides = torch.tanh(self.head(z_head)), torch.tanh(self.tail(z_tail))
        with torch.autocast(z_head.device.type, enabled=False):
            exact = torch.promote_types(z_head.dtype, torch.float32)
            logits = self.relation(sides[0].to(exact) * sides[1].to(exact)).view(gold.shape)
            return F.binary_cross_entropy_with_logits(logits, gold.to(exact), reduction="none").sum(2)


def relation_targets(entities: int, labels: Sequence[Label], relations: RelationSet) -> NDArray[np.bool_]:
    """[2 * unordered pairs, relations] of a document: all its (a, b), then all (b, a), a < b sorted."""
    order = pair_order(entities)
    targets = np.zeros((len(order), len(relations)), dtype=np.bool_)
    # Row h of the ordered pairs leaves out t = h.
    numbers = [label.head * (entities - 1) + label.tail - (label.tail > label.head) for label in labels]
    targets[order[numbers], [relations.index(label.relation) for label in labels]] = True
    return targets
