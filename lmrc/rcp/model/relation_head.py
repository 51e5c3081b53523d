"""Relation head: log-odds of every relation of a pair, from the projections z of its head and tail (equation 5).

Not part of the paper. In training it teaches the encoder to separate relations; in inference it names them
without an LM.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Label
from lmrc.rcp.data.collate import ordered_pair_indices

WIDTH = 512
# Initial P(relation) of 0.0025: few pairs have any given relation.
INITIAL_BIAS = -6.0


class RelationHead(nn.Module):
    """Relation classifier on the projections z of head and tail."""

    def __init__(self, width: int, num_relations: int) -> None:
        """Create the layers.

        Args:
            width: width of z.
            num_relations: number of relations.
        """
        super().__init__()
        self.head = nn.Linear(width, WIDTH)
        self.tail = nn.Linear(width, WIDTH)
        self.relation = nn.Linear(WIDTH, num_relations)
        nn.init.constant_(self.relation.bias, INITIAL_BIAS)

    def forward(self, z_head: Tensor, z_tail: Tensor) -> Tensor:
        """Return the logits of the relations, at least float32 [2, pairs, relations].

        Args:
            z_head: projections of the heads, as returned by a classifier, [2 * pairs, width].
            z_tail: projections of the tails, [2 * pairs, width].
        """
        head, tail = torch.tanh(self.head(z_head)), torch.tanh(self.tail(z_tail))
        with torch.autocast(z_head.device.type, enabled=False):
            dtype = torch.promote_types(z_head.dtype, torch.float32)
            logits: Tensor = self.relation(head.to(dtype) * tail.to(dtype))
            return logits.view(2, -1, logits.shape[1])


def relation_targets(num_entities: int, labels: Sequence[Label], relations: RelationSet) -> NDArray[np.bool_]:
    """Return the gold relations of a document's pairs, [2 * unordered pairs, relations].

    The rows are all (a, b), a < b sorted, followed by all (b, a).
    """
    indices = ordered_pair_indices(num_entities)
    targets = np.zeros((len(indices), len(relations)), dtype=np.bool_)
    # Row h of the ordered pairs omits t = h.
    pairs = [label.head * (num_entities - 1) + label.tail - (label.tail > label.head) for label in labels]
    targets[indices[pairs], [relations.index(label.relation) for label in labels]] = True
    return targets
