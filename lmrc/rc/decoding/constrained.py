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
from torch import Tensor, nn

from lmrc.rc.decoding.grammar import Grammar, PartialAnswer
from lmrc.rc.decoding.row_limit import RowLimit
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
        ids: token ids, with the end of sequence if it fits; else complete lines only, as if the answer ended there.
        choices: for each token that the grammar does not force, the index of its line (`PartialAnswer.line`) and its
            log probability among the allowed tokens.
    """

    ids: list[int]
    choices: list[tuple[int, float]]


@dataclass(slots=True)
class _ActiveRequest:
    """A request in the batch.

    Attributes:
        kv_cache: None before the first pass, and after the memory was released.
    """

    index: int
    prompt: Sequence[int]
    max_tokens: int
    answer: PartialAnswer
    kv_cache: KVCache | None = None
    choices: list[tuple[int, float]] = field(default_factory=list)

    def pending(self) -> Sequence[int]:
        """Return the token ids that the model has not seen yet."""
        assert self.kv_cache is not None
        seen = self.kv_cache.length - len(self.prompt)
        return self.answer.ids[seen:] if seen >= 0 else [*self.prompt[seen:], *self.answer.ids]

    def write_forced(self) -> list[int]:
        return self.answer.write_forced(self.max_tokens - len(self.answer.ids))

    @property
    def is_done(self) -> bool:
        return self.answer.ended or len(self.answer.ids) >= self.max_tokens


def decode(
    model: nn.Module, requests: Iterable[Request], limit: RowLimit, prefix_cache: PrefixCache
) -> Iterator[tuple[int, Answer]]:
    """Answer requests with the most probable allowed token at each step.

    The result equals greedy generation that masks all other tokens. A request that is done makes room for the next one,
    so answers come in no particular order. If memory runs out, half of the requests wait, and all go on from the tokens
    that are chosen.

    Args:
        requests: read as they are needed.
        limit: number of requests decoded together.
        prefix_cache: KV cache of the prefix that prompts share.

    Yields:
        The index of the request, and its answer.

    Raises:
        UserError: if a single request does not fit into memory.
    """
    remaining = enumerate(requests)
    active: list[_ActiveRequest] = []
    waiting: list[_ActiveRequest] = []
    while True:
        for index, (prompt, grammar, max_tokens) in islice(remaining, max(limit.rows - len(active) - len(waiting), 0)):
            waiting.append(_ActiveRequest(index, prompt, max_tokens, PartialAnswer(grammar)))
            waiting[-1].write_forced()
        room = limit.rows - len(active)
        active, waiting = active + waiting[:room], waiting[room:]
        if not active:
            return
        unfinished = [request for request in active if not request.is_done]
        if unfinished:
            try:
                _choose_tokens(model, unfinished, prefix_cache)
            except torch.OutOfMemoryError as error:
                limit.halve(len(unfinished), error)
                for request in unfinished:
                    request.kv_cache = None
                prefix_cache.clear()
        for request in active:
            if request.is_done:
                yield request.index, Answer(request.answer.complete_lines(), request.choices)
        active = [request for request in active if not request.is_done]
        active, waiting = active[: limit.rows], active[limit.rows :] + waiting


def _choose_tokens(model: nn.Module, requests: Sequence[_ActiveRequest], prefix_cache: PrefixCache) -> None:
    """Run the model once. Append to each answer its most probable allowed token and the tokens forced after it."""
    caches = []
    for request in requests:
        if request.kv_cache is None:
            request.kv_cache, _ = prefix_cache.lookup(model, request.prompt)
        caches.append(request.kv_cache)
    logits = extend_caches(model, caches, [request.pending() for request in requests])
    # The device computes meanwhile.
    allowed = [request.answer.allowed() for request in requests]
    # The only time that the host waits for the device.
    choices = most_probable(logits, allowed).tolist()
    for request, tokens, (choice, log_probability) in zip(requests, allowed, choices, strict=True):
        request.answer.write(tokens[int(choice)])
        request.choices.append((request.answer.line, log_probability))
        request.write_forced()


def most_probable(logits: Tensor, allowed: Sequence[Sequence[int]]) -> Tensor:
    """Choose the most probable of the allowed tokens of each row.

    Args:
        logits: [rows, vocabulary].
        allowed: token ids of each row.

    Returns:
        Index of the token in its row of `allowed`, and log probability among them, float32 [rows, 2].
    """
    width = max(map(len, allowed))
    index = torch.tensor([[*tokens, *[-1] * (width - len(tokens))] for tokens in allowed])
    index = index.to(logits.device, non_blocking=True)
    allowed_logits = logits.float().gather(1, index.clamp(min=0)).masked_fill(index < 0, float("-inf"))
    best = allowed_logits.log_softmax(1).max(1)
    return torch.stack([best.indices.float(), best.values], 1)
