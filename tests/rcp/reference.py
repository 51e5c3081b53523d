"""Reference implementation of equations 1 to 6 in float64, with loops over pairs, positions and mentions.

It shares only the names of the weights with lmrc.rcp. Attention is the encoder's own (eager, output_attentions).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lmrc.corpus.types import Document


def encode(encoder: PreTrainedModel, ids: list[int], size: int, separators: int) -> tuple[Tensor, Tensor]:
    """Return hidden states [length, d] and last attention [heads, length, length] of a document, without padding."""

    def run(window: list[int]) -> tuple[Tensor, Tensor]:
        output = encoder(input_ids=torch.tensor([window]), output_attentions=True)
        return output.last_hidden_state[0], output.attentions[-1][0]

    encoder.set_attn_implementation("eager")
    length = len(ids)
    if length <= size:
        return run(ids)
    hidden_1, attention_1 = run(ids[: size - separators] + ids[-1:] * separators)
    hidden_2, attention_2 = run(ids[:1] + ids[length - size + 1 :])
    shift = length - size
    heads, d = attention_1.shape[0], hidden_1.shape[1]
    hidden, attention = torch.zeros(length, d).double(), torch.zeros(heads, length, length).double()
    for i in range(length):
        in_1, in_2 = i < size - separators, i - shift >= 1
        assert in_1 or in_2, "no window contains the word piece"
        states = ([hidden_1[i]] if in_1 else []) + ([hidden_2[i - shift]] if in_2 else [])
        hidden[i] = torch.stack(states).mean(0)
        for j in range(length):
            if in_1 and j < size - separators:
                attention[:, i, j] += attention_1[:, i, j]
            if in_2 and j - shift >= 1:
                attention[:, i, j] += attention_2[:, i - shift, j - shift]
        for head in range(heads):
            attention[head, i] /= attention[head, i].sum() + 1e-10
    return hidden, attention


def project(
    weights: dict[str, Tensor],
    hidden: Tensor,
    attention: Tensor,
    markers: list[list[int]],
    document: Document | None = None,
    types: Sequence[str] = (),
) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
    """Return z of head and tail of each ordered pair of entities (equations 2 to 5).

    Args:
        weights: state dict of the model.
        hidden: hidden states, [length, d].
        attention: last attention, [heads, length, length].
        markers: positions of the opening markers of each entity.
        document: the document, for a model with features.
        types: entity types with an embedding.
    """
    length, d = hidden.shape
    heads = attention.shape[0]
    embeddings, attentions = [], []
    for positions in markers:
        embedding, rows = torch.zeros(d).double(), torch.zeros(heads, length).double()
        if positions:
            for k in range(d):
                embedding[k] = math.log(sum(math.exp(float(hidden[p, k])) for p in positions))
            for p in positions:
                rows = rows + attention[:, p] / len(positions)
        embeddings.append(embedding)
        attentions.append(rows)

    context_head, context_tail = weights["classifier.context.weight"].chunk(2)
    projections = {}
    for s in range(len(markers)):
        for o in range(len(markers)):
            if s == o:
                continue
            q = torch.zeros(length).double()
            for head in range(heads):
                q = q + attentions[s][head] * attentions[o][head] / heads
            q = q / (q.sum() + 1e-5)
            c = hidden.T @ q
            z_s = weights["classifier.head.weight"] @ embeddings[s] + weights["classifier.head.bias"] + context_head @ c
            z_o = weights["classifier.tail.weight"] @ embeddings[o] + weights["classifier.tail.bias"] + context_tail @ c
            if document is not None:
                more_s, more_o = _features(weights, document, types, s, o)
                z_s, z_o = z_s + more_s, z_o + more_o
            projections[s, o] = torch.tanh(z_s), torch.tanh(z_o)
    return projections


def _features(
    weights: dict[str, Tensor], document: Document, types: Sequence[str], s: int, o: int
) -> tuple[Tensor, Tensor]:
    head, tail = document.entities[s], document.entities[o]
    distance = min(abs(a.sentence - b.sentence) for a in head for b in tail)
    row = min(distance, 7) * 5 + min(len(head), len(tail), 5) - 1
    z_s, z_o = weights["classifier.distance.weight"][row].chunk(2)
    if head[0].type in types:
        z_s = z_s + weights["classifier.head_type.weight"][1 + types.index(head[0].type)]
    if tail[0].type in types:
        z_o = z_o + weights["classifier.tail_type.weight"][1 + types.index(tail[0].type)]
    return z_s, z_o


def logits(
    weights: dict[str, Tensor], projections: dict[tuple[int, int], tuple[Tensor, Tensor]]
) -> dict[tuple[int, int], float]:
    """Return the logit of P(relation) of each ordered pair of entities (equation 6)."""
    if "classifier.bilinear.weight" in weights:
        matrix, bias = weights["classifier.bilinear.weight"], weights["classifier.bias"]
        return {pair: float(z_s @ matrix @ z_o + bias) for pair, (z_s, z_o) in projections.items()}
    logits = {}
    for pair, (z_s, z_o) in projections.items():
        outer = torch.stack([torch.outer(*blocks) for blocks in zip(z_s.view(12, 64), z_o.view(12, 64), strict=True)])
        none, relation = weights["classifier.weight"] @ outer.flatten() + weights["classifier.bias"]
        logits[pair] = float(relation - none) / 2
    return logits


def relation_logits(weights: dict[str, Tensor], z_s: Tensor, z_o: Tensor) -> list[float]:
    """Return the logits of the relations of a pair."""

    def layer(name: str, x: Tensor) -> Tensor:
        return weights[f"relation_head.{name}.weight"] @ x + weights[f"relation_head.{name}.bias"]

    logits: list[float] = layer("relation", torch.tanh(layer("head", z_s)) * torch.tanh(layer("tail", z_o))).tolist()
    return logits


def relation_loss(weights: dict[str, Tensor], z_s: Tensor, z_o: Tensor, gold: set[int]) -> float:
    """Return the binary cross entropy of a pair, summed over relations."""
    total = 0.0
    for relation, score in enumerate(relation_logits(weights, z_s, z_o)):
        p = 1 / (1 + math.exp(-score))
        total -= math.log(p if relation in gold else 1 - p)
    return total
