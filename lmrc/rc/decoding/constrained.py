"""Greedy decoding along a grammar: tokens that are forced go through the model in one pass with the next open one."""

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
    """A prompt to answer."""

    prompt: Sequence[int]
    grammar: Grammar
    room: int
    """Most tokens of the answer."""


class Answer(NamedTuple):
    """`ids`: with the end of sequence, if there was room for it; if not, whole lines only."""

    ids: list[int]
    choices: list[tuple[int, float]]
    """Where in `ids` a token was chosen among several, and the logarithm of its probability among them."""


@dataclass(slots=True)
class _Row:
    """A request being answered."""

    number: int
    room: int
    answer: PartialAnswer
    memory: KVCache
    pending: Sequence[int]
    """What the model has not seen yet."""
    choices: list[tuple[int, float]] = field(default_factory=list)

    def force(self) -> list[int]:
        return self.answer.write_forced(self.room - len(self.answer.ids))

    @property
    def done(self) -> bool:
        return self.answer.ended or len(self.answer.ids) >= self.room


def decode(
    model: nn.Module, requests: Iterable[Request], rows: int, prefix_cache: PrefixCache
) -> Iterator[tuple[int, Answer]]:
    """The most probable allowed token, one after another, for each request; yields (number of the request, answer).

    Equals greedy generation in which every step may only choose among the allowed tokens. `rows` requests are answered
    at a time: as soon as one is done the next takes its place, so that answers come in no particular order.
    """
    waiting = enumerate(requests)
    active: list[_Row] = []
    while True:
        for number, request in islice(waiting, rows - len(active)):
            memory, rest = prefix_cache.lookup(model, request.prompt)
            row = _Row(number, request.room, PartialAnswer(request.grammar), memory, rest)
            row.pending = [*rest, *row.force()]
            active.append(row)
        if not active:
            return
        open_rows = [row for row in active if not row.done]
        if open_rows:
            _choose(model, open_rows)
        for row in active:
            if row.done:
                yield row.number, Answer(row.answer.whole(), row.choices)
        active = [row for row in active if not row.done]


def _choose(model: nn.Module, rows: Sequence[_Row]) -> None:
    """One pass: each row chooses a token and writes what is forced behind it."""
    logits = extend_caches(model, [row.memory for row in rows], [row.pending for row in rows])
    allowed = [row.answer.allowed() for row in rows]
    width = max(map(len, allowed))
    # One transfer from the device for all rows.
    index = torch.tensor([[*tokens, *[tokens[0]] * (width - len(tokens))] for tokens in allowed], device=logits.device)
    real = torch.tensor([[True] * len(tokens) + [False] * (width - len(tokens)) for tokens in allowed])
    choices = logits.float().gather(1, index).masked_fill(~real.to(logits.device), float("-inf"))
    best = choices.log_softmax(1).max(1)
    for row, tokens, place, probability in zip(rows, allowed, best.indices.tolist(), best.values.tolist(), strict=True):
        start = len(row.answer.ids)
        row.choices.append((start, probability))
        row.answer.write(tokens[place])
        row.force()
        row.pending = row.answer.ids[start:]
