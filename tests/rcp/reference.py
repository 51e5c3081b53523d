"""Equations 1 to 6, written a second time: one pair, one position, one mention at a time, in float64.

Shares nothing with lmrc.rcp but the weights' names. Attention is the encoder's own (eager, output_attentions).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from transformers import PreTrainedModel


def encode(encoder: PreTrainedModel, ids: list[int], size: int, separators: int) -> tuple[Tensor, Tensor]:
    """Hidden states [length, d] and last attention [heads, length, length] of one document, without padding."""

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
        assert in_1 or in_2, "a word piece that no window sees"
        found = ([hidden_1[i]] if in_1 else []) + ([hidden_2[i - shift]] if in_2 else [])
        hidden[i] = torch.stack(found).mean(0)
        for j in range(length):
            if in_1 and j < size - separators:
                attention[:, i, j] += attention_1[:, i, j]
            if in_2 and j - shift >= 1:
                attention[:, i, j] += attention_2[:, i - shift, j - shift]
        for head in range(heads):
            attention[head, i] /= attention[head, i].sum() + 1e-10
    return hidden, attention


def logits(
    weights: dict[str, Tensor],
    hidden: Tensor,
    attention: Tensor,
    markers: list[list[int]],
) -> dict[tuple[int, int], float]:
    """The logit of P(relation) of each ordered pair of entities, given the positions of their opening markers."""
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
    scores = {}
    for s in range(len(markers)):
        for o in range(len(markers)):
            if s == o:
                continue
            q = torch.zeros(length).double()
            for head in range(heads):
                q = q + attentions[s][head] * attentions[o][head] / heads
            q = q / (q.sum() + 1e-5)
            c = hidden.T @ q
            z_s = torch.tanh(
                weights["classifier.head.weight"] @ embeddings[s] + weights["classifier.head.bias"] + context_head @ c
            )
            z_o = torch.tanh(
                weights["classifier.tail.weight"] @ embeddings[o] + weights["classifier.tail.bias"] + context_tail @ c
            )
            scores[s, o] = float(z_s @ weights["classifier.bilinear.weight"] @ z_o + weights["classifier.bias"])
    return scores
