"""Queries (what the LM is asked about one document) and examples (queries with their answers, as token ids).

Prompt and answer are turned into tokens apart and their ids concatenated, so that training and inference see the very
same ids of a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lmrc.config import PromptOptions
from lmrc.corpus.docred import Document, relations_by_pair
from lmrc.corpus.relations import RelationSet
from lmrc.errors import UserError
from lmrc.rc.prompts import Pair, answer, check_relations, entity_name, line, prompt

IGNORED = -100
"""Label of positions that are not learnt."""

RESERVED_LINES = 1.5
"""Lines with the longest relation a pair, for which a query leaves room where its answer is not known.

Gold answers of Re-DocRED need 0.9 on average, and more than 1.5 in two documents of a thousand.
"""
LONGEST_LINES = 3
"""Lines a pair after which an answer is stopped, if it has not ended by itself."""


@dataclass(frozen=True, slots=True)
class Query:
    """One prompt. `pairs` are sorted by (head, tail); `answer` is the gold answer, if it is known."""

    document: int
    """Index in the corpus."""
    title: str
    pairs: tuple[Pair, ...]
    prompt: str
    answer: str | None
    answer_room: int
    """Tokens after which a generated answer is stopped: room for its pairs, and within max_length."""


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of prompt, answer and end-of-sequence."""

    input_ids: Tensor
    """int32 [tokens]"""
    prompt_tokens: int

    @property
    def labels(self) -> Tensor:
        """int64 [tokens]: the ids of answer and end-of-sequence, IGNORED on the prompt."""
        labels = self.input_ids.long()
        labels[: self.prompt_tokens] = IGNORED
        return labels

    @property
    def answer_tokens(self) -> int:
        """Number of learnt tokens, end-of-sequence included."""
        return len(self.input_ids) - self.prompt_tokens


def prompt_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a prompt, with what the tokenizer puts at the start of a text."""
    return list(tokenizer(text)["input_ids"])


def answer_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of an answer and the end of sequence."""
    return [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def encode(query: Query, tokenizer: PreTrainedTokenizerBase) -> Example:
    """The tokens of a query whose answer is known."""
    if query.answer is None:
        raise ValueError("only a query with an answer is an example")
    before, after = prompt_ids(query.prompt, tokenizer), answer_ids(query.answer, tokenizer)
    return Example(torch.tensor(before + after, dtype=torch.int32), len(before))


def collate(examples: Sequence[Example], pad_id: int) -> dict[str, Tensor]:
    """One batch, padded on the right: `input_ids`, `attention_mask`, `labels`, int64 [examples, longest].

    Padding is known by the mask: its id may be that of the end of sequence, which is learnt.
    """
    longest = max(len(example.input_ids) for example in examples)
    batch = {
        "input_ids": torch.full((len(examples), longest), pad_id, dtype=torch.long),
        "attention_mask": torch.zeros(len(examples), longest, dtype=torch.long),
        "labels": torch.full((len(examples), longest), IGNORED, dtype=torch.long),
    }
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        batch["input_ids"][row, :length] = example.input_ids
        batch["attention_mask"][row, :length] = 1
        batch["labels"][row, :length] = example.labels
    return batch


@dataclass(frozen=True, slots=True)
class _Cost:
    """Tokens of one pair: its line in the prompt, its lines in the answer, a line with the longest relation."""

    asked: int
    answered: int
    longest: int


def gold_pairs(document: Document) -> list[Pair]:
    """Pairs with a relation. Raises UserError where the document has no labels."""
    if document.labels is None:
        raise UserError(f"document {document.title!r} has no labels: gold pairs are not known, give candidates instead")
    return list(relations_by_pair(document))


class QueryBuilder:
    """Cuts the pairs of documents into queries that fit.

    `answer_limit`: at inference, the longest answer in tokens that will be generated; it bounds the pairs of a query.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        relations: RelationSet,
        options: PromptOptions,
        answer_limit: int | None = None,
    ) -> None:
        check_relations(relations)
        self._tokenizer = tokenizer
        self._relations = relations
        self._options = options
        self._answer_limit = options.max_length if answer_limit is None else answer_limit
        counts = self._count_each(list(relations.names))
        self._longest_relation = relations.names[counts.index(max(counts))]

    def build(
        self,
        index: int,
        document: Document,
        pairs: Iterable[Pair],
        gold: Mapping[Pair, Sequence[str]] | None = None,
    ) -> Iterator[Query]:
        """The queries for `pairs` of a document, as few as fit; none if there are no pairs.

        `gold`: the relation ids of pairs, to learn from; answers are then known and counted exactly. Without it room is
        left for RESERVED_LINES lines with the longest relation for each pair.

        Raises UserError where the text and a single pair do not fit `max_length`.
        """
        rest = sorted(pairs)
        if not rest:
            return
        costs = self._costs(document, rest, gold)
        frame = len(self._prompt(document, rest[:1])) - costs[rest[0]].asked
        while rest:
            most = min(len(rest), self._options.pairs_per_query or len(rest))

            # Tokens of lines do not quite add up to the tokens of a text: begin with their sum, end with the text's.
            def fits(count: int, rest: Sequence[Pair] = rest) -> bool:
                before, after = self._needed(document, rest[:count], costs, gold)
                return before + after <= self._options.max_length and after <= self._answer_limit

            count = self._first_guess([costs[pair] for pair in rest[:most]], frame)
            while count < most and fits(count + 1):
                count += 1
            while not fits(count):
                if count == 1:
                    self._refuse(document, *self._needed(document, rest[:1], costs, gold))
                count -= 1

            chosen, rest = tuple(rest[:count]), rest[count:]
            before, _ = self._needed(document, chosen, costs, gold)
            room = 1 + LONGEST_LINES * sum(costs[pair].longest for pair in chosen)
            yield Query(
                document=index,
                title=document.title,
                pairs=chosen,
                prompt=prompt(document, chosen, self._relations, self._options.kind),
                answer=None if gold is None else self._answer(document, chosen, gold),
                answer_room=min(room, self._answer_limit, self._options.max_length - before),
            )

    def _costs(
        self, document: Document, pairs: Sequence[Pair], gold: Mapping[Pair, Sequence[str]] | None
    ) -> dict[Pair, _Cost]:
        names = [(entity_name(document, head), entity_name(document, tail)) for head, tail in pairs]
        asked = self._count_each([line(head, "-", tail) + "\n" for head, tail in names])
        longest = self._count_each([line(head, self._longest_relation, tail) + "\n" for head, tail in names])
        if gold is None:
            answered = [math.ceil(RESERVED_LINES * tokens) for tokens in longest]
        else:
            answered = self._count_each([self._answer(document, [pair], gold) + "\n" for pair in pairs])
        return {pair: _Cost(*each) for pair, *each in zip(pairs, asked, answered, longest, strict=True)}

    def _first_guess(self, costs: Sequence[_Cost], frame: int) -> int:
        total, answered = frame + 1, 1
        for count, cost in enumerate(costs):
            total += cost.asked + cost.answered
            answered += cost.answered
            if total > self._options.max_length or answered > self._answer_limit:
                return max(1, count)
        return len(costs)

    def _needed(
        self,
        document: Document,
        pairs: Sequence[Pair],
        costs: Mapping[Pair, _Cost],
        gold: Mapping[Pair, Sequence[str]] | None,
    ) -> tuple[int, int]:
        """Tokens of prompt and answer."""
        if gold is None:
            answered = 1 + sum(costs[pair].answered for pair in pairs)
        else:
            answered = len(answer_ids(self._answer(document, pairs, gold), self._tokenizer))
        return len(self._prompt(document, pairs)), answered

    def _refuse(self, document: Document, before: int, after: int) -> NoReturn:
        if after > self._answer_limit:
            raise UserError(
                f"document {document.title!r}: the answer for a single pair may need {after} tokens, but an answer is "
                f"limited to {self._answer_limit}: raise decode.max_new_tokens or prompt.max_length"
            )
        raise UserError(
            f"document {document.title!r} needs {before + after} tokens with a single pair and its answer, but "
            f"prompt.max_length is {self._options.max_length}: raise it, or split the document"
        )

    def _prompt(self, document: Document, pairs: Sequence[Pair]) -> list[int]:
        return prompt_ids(prompt(document, pairs, self._relations, self._options.kind), self._tokenizer)

    def _answer(self, document: Document, pairs: Sequence[Pair], gold: Mapping[Pair, Sequence[str]]) -> str:
        return answer(document, {pair: gold.get(pair, ()) for pair in pairs}, self._relations)

    def _count_each(self, texts: list[str]) -> list[int]:
        return [len(ids) for ids in self._tokenizer(texts, add_special_tokens=False)["input_ids"]]
