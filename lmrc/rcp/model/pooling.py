"""Localized context pooling: embeddings of entities and contexts of pairs (equations 2 to 4)."""

from __future__ import annotations

import torch
from torch import Tensor

# From the published code: if two entities share no attention, the context is about zero.
EPSILON = 1e-5


def pool_entities(hidden: Tensor, mentions: Tensor, mask: Tensor) -> Tensor:
    """Return entity embeddings: logsumexp over the opening markers of an entity's mentions (equation 2).

    Args:
        hidden: hidden states of opening markers, [markers, d].
        mentions: rows of `hidden` for each entity, [entities, maximum mentions].
        mask: True if the mention exists, [entities, maximum mentions].

    Returns:
        Embeddings [entities, d]; zero for entities without mentions.
    """
    if hidden.shape[0] == 0:
        return hidden.new_zeros(mentions.shape[0], hidden.shape[1])
    gathered = hidden.index_select(0, mentions.flatten()).view(*mentions.shape, -1)
    has_mention = mask.any(1, keepdim=True)
    # Entities without mentions keep finite values here, because an empty logsumexp has no gradient.
    gathered = gathered.masked_fill((has_mention & ~mask).unsqueeze(-1), float("-inf"))
    return torch.logsumexp(gathered, 1).masked_fill(~has_mention, 0.0)


def pool_attention(rows: Tensor, mention_entity: Tensor, mention_weight: Tensor, num_entities: int) -> Tensor:
    """Return the attention of a document's entities: the mean over their mentions.

    Args:
        rows: attention rows of the mentions, [heads, mentions, length].
        mention_entity: entity of each mention, [mentions].
        mention_weight: 1 / number of mentions of that entity, [mentions].
        num_entities: number of entities.

    Returns:
        Attention [length, entities, heads]; zero for entities without mentions.
    """
    entities = torch.arange(num_entities, device=rows.device)
    # A matrix product, because adding by index is not deterministic on a GPU.
    average = (mention_entity == entities[:, None]).to(rows.dtype) * mention_weight.to(rows.dtype)
    with torch.autocast(rows.device.type, enabled=False):
        return (average @ rows).permute(2, 1, 0).contiguous()


def pool_contexts(hidden: Tensor, attention: Tensor, heads: slice, first: Tensor, second: Tensor) -> Tensor:
    """Return localized contexts of entity pairs (equations 3 and 4).

    The context of (s, o) equals that of (o, s), so one of them is enough. As in the published code, products are
    averaged over attention heads and normalized over positions; equation 3 omits that.

    Args:
        hidden: hidden states of the document, [length, d].
        attention: attention of the entities, [length, entities, attention heads].
        heads: range that contains all of `first`; only these entities are multiplied with all others.
        first: entity index, [pairs].
        second: entity index, [pairs].

    Returns:
        Contexts [pairs, d].
    """
    length, num_entities, attention_heads = attention.shape
    with torch.autocast(hidden.device.type, enabled=False):
        # A product for all pairs, [length, head entities, entities], instead of [pairs, attention heads, length].
        shared = torch.bmm(attention[:, heads], attention.transpose(1, 2)) / attention_heads
        weights = shared.view(length, -1).index_select(1, (first - heads.start) * num_entities + second)
        weights = weights / (weights.sum(0, keepdim=True) + EPSILON)
    return weights.t() @ hidden
