"""Localized context pooling: entities and the contexts of their pairs (equations 2 to 4)."""

from __future__ import annotations

import torch
from torch import Tensor

# Of the published code: keeps a pair whose entities attend to nothing in common at a context of (nearly) zero.
EPSILON = 1e-5


def pool_entities(hidden: Tensor, mentions: Tensor, present: Tensor) -> Tensor:
    """Entity embeddings: logsumexp over the opening markers of an entity's mentions (equation 2).

    hidden: [markers, d]; mentions: [entities, most mentions], rows of `hidden`; present: the same shape, False where an
    entity has fewer mentions. Returns [entities, d]; an entity without any mention is a zero vector.
    """
    if hidden.shape[0] == 0:
        return hidden.new_zeros(mentions.shape[0], hidden.shape[1])
    gathered = hidden.index_select(0, mentions.flatten()).view(*mentions.shape, -1)
    alive = present.any(1, keepdim=True)
    # An entity without mentions keeps finite values here: logsumexp of nothing has no gradient.
    gathered = gathered.masked_fill((alive & ~present).unsqueeze(-1), float("-inf"))
    return torch.logsumexp(gathered, 1).masked_fill(~alive, 0.0)


def pool_contexts(hidden: Tensor, attention: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Localized contexts of a document's entity pairs (equations 3 and 4).

    hidden: [length, d]; attention: [entities, heads, length], each entity's mean over its mentions; first, second:
    [pairs] entities. Returns [pairs, d]. The context of (s, o) is that of (o, s): one of the two is enough. As in the
    published code the heads' products are averaged and normalised over positions; equation 3 leaves that out.
    """
    heads = attention.shape[1]
    with torch.autocast(hidden.device.type, enabled=False):
        by_position = attention.permute(2, 0, 1)
        # One product over heads for all pairs: [length, entities, entities], in place of [pairs, heads, length].
        shared = torch.bmm(by_position, by_position.transpose(1, 2)) / heads
        weights = shared.permute(1, 2, 0)[first, second]
        weights = weights / (weights.sum(1, keepdim=True) + EPSILON)
    return weights @ hidden
