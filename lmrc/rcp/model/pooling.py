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


def pool_attention(rows: Tensor, owner: Tensor, share: Tensor, entities: int) -> Tensor:
    """The attention of a document's entities: the mean over their mentions' rows.

    rows: [heads, mentions, length]; owner: [mentions], whose mention it is; share: [mentions], 1 / mentions of that
    entity. Returns [length, entities, heads], zero for an entity without any mention.
    """
    numbers = torch.arange(entities, device=rows.device)
    # A product with a small matrix: unlike adding up by index it gives the same bits at every run on a GPU.
    average = (owner == numbers[:, None]).to(rows.dtype) * share.to(rows.dtype)
    with torch.autocast(rows.device.type, enabled=False):
        return (average @ rows).permute(2, 1, 0).contiguous()


def pool_contexts(hidden: Tensor, attention: Tensor, heads: slice, first: Tensor, second: Tensor) -> Tensor:
    """Localized contexts of entity pairs of a document (equations 3 and 4).

    hidden: [length, d]; attention: [length, entities, heads]; first, second: [pairs] entities, `first` all within the
    slice `heads`, so that only these are multiplied with all. Returns [pairs, d]. The context of (s, o) is that of (o,
    s): one of the two is enough. As in the published code the heads' products are averaged and normalised over
    positions; equation 3 leaves that out.
    """
    length, entities, attention_heads = attention.shape
    with torch.autocast(hidden.device.type, enabled=False):
        # One product over attention heads for all pairs: [length, head entities, entities], in place of [pairs,
        # attention heads, length].
        shared = torch.bmm(attention[:, heads], attention.transpose(1, 2)) / attention_heads
        weights = shared.view(length, -1).index_select(1, (first - heads.start) * entities + second)
        weights = weights / (weights.sum(0, keepdim=True) + EPSILON)
    return weights.t() @ hidden
