"""Greedy decoding along a grammar.

Tokens that the grammar forces need no forward pass of their own: they go through the model together with the next token
that is chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import torch
from torch import nn

from lmrc.rc.decoding.grammar import Grammar, PartialAnswer
from lmrc.rc.model.kv_cache import KVCache, PrefixCache, extend_caches


class Request(NamedTuple):
    """A prompt to answer.

    Attributes:
        prompt: token ids.
        max_tokens: maximum length of the answer.
    """

    prompt: Sequence[int]
    grammar: Grammar
    max_tokens: int


class Answer(NamedTuple):
    """A generated answer.

    Attributes:
        ids: token ids, with the end of sequence if it fits; else complete lines only.
        choices: for each token that the grammar does not force, its index in `ids` and its log probability among the
            allowed tokens.
    """

    ids: list[int]
    choices: list[tuple[int, float]]


@dataclass(slots=True)
class _ActiveRequest:
    """A request in the batch. `pending` holds the token ids that the model has not seen yet."""

    index: int
    max_tokens: int
    answer: PartialAnswer
    kv_cache: KVCache
    pending: Sequence[int]
    choices: list[tuple[int, float]] = field(default_factory=list)

    def write_forced(self) -> list[int]:
        return self.answer.write_forced(self.max_tokens - len(self.answer.ids))

    @property
    def is_done(self) -> bool:
        return self.answer.ended or len(self.answer.ids) >= self.max_tokens


def decode(
    model: nn.Module, requests: Iterable[Request], batch_size: int, prefix_cache: PrefixCache
) -> Iterator[tuple[int, Answer]]:
    """Answer requests with the most probable allowed token at each step.

    The result equals greedy generation that masks all other tokens. A request that is done makes room for the next one,
    so answers come in no particular order.

    Args:
        requests: read as they are needed.
        batch_size: number of requests decoded together.
        prefix_cache: KV cache of the prefix that prompts share.

    Yields:
        The index of the request, and its answer.
    """
    remaining = enumerate(requests)
    active: list[_ActiveRequest] = []
    while True:
        for index, (prompt, grammar, max_tokens) in islice(remaining, batch_size - len(active)):
            kv_cache, suffix = prefix_cache.lookup(model, prompt)
            added = _ActiveRequest(index, max_tokens, PartialAnswer(grammar), kv_cache, suffix)
            added.pending = [*suffix, *added.write_forced()]
            active.append(added)
        if not active:
            return
        unfinished = [request for request in active if not request.is_done]
        if unfinished:
            _choose_tokens(model, unfinished)
        for request in active:
            if request.is_done:
                yield request.index, Answer(request.answer.complete_lines(), request.choices)
        active = [request for request in active if not request.is_done]


def _choose_tokens(model: nn.Module, requests: Sequence[_ActiveRequest]) -> None:
    """Run the model once. Append to each answer its most probable allowed token and the tokens forced after it."""
    logits = extend_caches(model, [request.kv_cache for request in requests], [request.pending for request in requests])
    allowed = [request.answer.allowed() for request in requests]
    width = max(map(len, allowed))
    # [requests, width], padded with the first token; one transfer from the device for all requests.
    index = torch.tensor([[*tokens, *[tokens[0]] * (width - len(tokens))] for tokens in allowed], device=logits.device)
    is_padding = torch.tensor([[False] * len(tokens) + [True] * (width - len(tokens)) for tokens in allowed])
    allowed_logits = logits.float().gather(1, index).masked_fill(is_padding.to(logits.device), float("-inf"))
    best = allowed_logits.log_softmax(1).max(1)
    for request, tokens, choice, log_probability in zip(
        requests, allowed, best.indices.tolist(), best.values.tolist(), strict=True
    ):
        start = len(request.answer.ids)
        request.choices.append((start, log_probability))
        request.answer.write(tokens[choice])
        request.write_forced()
        request.pending = request.answer.ids[start:]
