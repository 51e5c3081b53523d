"""Queries (what the LM is asked about one document) and examples (queries with their answers, as token ids).

Prompt and answer are turned into tokens apart and their ids concatenated, so that training and inference see the very
same ids of a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lmrc.common.errors import UserError
from lmrc.config.schema import PromptOptions, PromptTemplate
from lmrc.corpus.docred import relations_by_pair
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document, Mention
from lmrc.rc.prompts.templates import Pair, answer, answer_set, check_relations, entity_name, line, prompt
from lmrc.rc.prompts.truncation import left_out

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
    left_out: tuple[int, ...] = ()
    """Sentences that are not in the prompt, in the order of the text."""


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of prompt, answer and end-of-sequence."""

    input_ids: Tensor
    """int32 [tokens]"""
    prompt_tokens: int

    @property
    def answer_tokens(self) -> int:
        """Number of learnt tokens, end-of-sequence included."""
        return len(self.input_ids) - self.prompt_tokens


def prompt_ids(text: str, tokenizer: PreTrainedTokenizerBase, template: PromptTemplate | None = None) -> list[int]:
    """Token ids of a prompt, with what the tokenizer puts at the start of a text.

    `template` llama2: between [INST] and [/INST]; chat: as the user's turn in the tokenizer's own chat template.

    Raises UserError where the tokenizer has no chat template.
    """
    if template == "chat":
        if not tokenizer.chat_template:
            raise UserError("prompt.template is chat, but the tokenizer has no chat template: choose none or llama2")
        turns = [{"role": "user", "content": text}]
        # As text first: what a template writes of special tokens must not be put in twice.
        text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        return list(_tokens(text, tokenizer, False))
    if template == "llama2":
        text = f"[INST] {text.strip()} [/INST]"
    return list(_tokens(text, tokenizer, True))


def answer_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of an answer and the end of sequence."""
    return [*_tokens(text, tokenizer, False), tokenizer.eos_token_id]


@lru_cache(maxsize=8)
def _tokens(text: str, tokenizer: PreTrainedTokenizerBase, special: bool) -> tuple[int, ...]:
    """A query that was found to fit is counted and turned into an example right after: its texts are the same."""
    return tuple(tokenizer(text, add_special_tokens=special)["input_ids"])


def encode(query: Query, tokenizer: PreTrainedTokenizerBase, template: PromptTemplate | None = None) -> Example:
    """The tokens of a query whose answer is known."""
    if query.answer is None:
        raise ValueError("only a query with an answer is an example")
    before, after = prompt_ids(query.prompt, tokenizer, template), answer_ids(query.answer, tokenizer)
    return Example(torch.tensor(before + after, dtype=torch.int32), len(before))


def shared_length(texts: Sequence[Sequence[int]]) -> int:
    """Number of tokens at which all texts begin alike."""
    count = 0
    for tokens in zip(*texts, strict=False):
        if len(set(tokens)) > 1:
            break
        count += 1
    return count


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
    `demonstrated`: tokens of the demonstrations that stand before each query, and count into `max_length`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        relations: RelationSet,
        options: PromptOptions,
        answer_limit: int | None = None,
        demonstrated: int = 0,
    ) -> None:
        check_relations(relations)
        self._tokenizer = tokenizer
        self._relations = relations
        self._options = options
        self._demonstrated = demonstrated
        self._answer_limit = options.max_length if answer_limit is None else answer_limit
        answers = answer_set(options.kind, relations)
        names = [*answers.relations.names, answers.none]
        counts = self._count_each(names)
        self._longest_relation = names[counts.index(max(counts))]

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

        Where the text and a single pair do not fit `max_length`, it is shortened for this pair if `options.truncate`
        says so. Raises UserError where it does not, or where that is not enough.
        """
        rest = sorted(pairs)
        if not rest:
            return
        costs = self._costs(document, rest, gold)
        frame = self._demonstrated + len(self._prompt(document, rest[:1])) - costs[rest[0]].asked
        while rest:
            most = min(len(rest), self._options.pairs_per_query or len(rest))

            # Tokens of lines do not quite add up to the tokens of a text: begin with their sum, end with the text's.
            def fits(count: int, rest: Sequence[Pair] = rest) -> bool:
                return self._fits(*self._needed(document, rest[:count], costs, gold))

            count = self._first_guess([costs[pair] for pair in rest[:most]], frame)
            while count < most and fits(count + 1):
                count += 1
            while count and not fits(count):
                count -= 1

            without = () if count else self._shorten(document, rest[0], costs, gold)
            count = count or 1
            chosen, rest = tuple(rest[:count]), rest[count:]
            before, _ = self._needed(document, chosen, costs, gold, without)
            room = 1 + LONGEST_LINES * sum(costs[pair].longest for pair in chosen)
            yield Query(
                document=index,
                title=document.title,
                pairs=chosen,
                prompt=prompt(document, chosen, self._relations, self._options.kind, without),
                answer=None if gold is None else self._answer(document, chosen, gold),
                answer_room=min(room, self._answer_limit, self._options.max_length - before),
                left_out=without,
            )

    def beginning(self) -> list[int]:
        """The tokens at which every prompt begins, whatever its document: instruction and relation set."""
        texts = []
        for word in ("A", "0", "(", "\u4e2d"):
            entities = tuple((Mention(word, 0, 0, 1, "MISC"),) for _ in range(2))
            texts.append(self._prompt(Document(word, ((word,),), entities, None), [(0, 1)]))
        return texts[0][: shared_length(texts)]

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
        without: Collection[int] = (),
    ) -> tuple[int, int]:
        """Tokens of prompt, demonstrations included, and answer."""
        if gold is None:
            answered = 1 + sum(costs[pair].answered for pair in pairs)
        else:
            answered = len(answer_ids(self._answer(document, pairs, gold), self._tokenizer))
        return self._demonstrated + len(self._prompt(document, pairs, without)), answered

    def _fits(self, before: int, after: int) -> bool:
        return before + after <= self._options.max_length and after <= self._answer_limit

    def _shorten(
        self, document: Document, pair: Pair, costs: Mapping[Pair, _Cost], gold: Mapping[Pair, Sequence[str]] | None
    ) -> tuple[int, ...]:
        """The sentences without which the text fits with this pair."""

        def needed(without: Collection[int]) -> tuple[int, int]:
            return self._needed(document, [pair], costs, gold, without)

        before, after = needed(())
        without: tuple[int, ...] = ()
        if self._options.truncate == "sentences" and after <= self._answer_limit:
            without = left_out(document, pair, lambda sentences: self._fits(*needed(sentences)))
            before, after = needed(without)
        if not self._fits(before, after):
            self._refuse(document, before, after, len(without))
        return without

    def _refuse(self, document: Document, before: int, after: int, without: int) -> NoReturn:
        if after > self._answer_limit:
            # Not in the pre-flight: every document would have to be tokenized.
            raise UserError(
                f"document {document.title!r}: the answer for a single pair may need {after} tokens, but an answer is "
                f"limited to {self._answer_limit}: raise decode.max_new_tokens or prompt.max_length"
            )
        even = f", even without the {without} sentences that name neither entity" if without else ""
        even += f", {self._demonstrated} of them for demonstrations" if self._demonstrated else ""
        shorten = (
            "" if self._options.truncate else "give --prompt.truncate sentences (lmrc extract: --truncate sentences), "
        )
        # Not in the pre-flight: every document would have to be tokenized.
        raise UserError(
            f"document {document.title!r} needs {before + after} tokens with a single pair and its answer{even}, but "
            f"prompt.max_length is {self._options.max_length}: {shorten}split the document, or raise prompt.max_length "
            "(an adapter must be trained with it)"
        )

    def _prompt(self, document: Document, pairs: Sequence[Pair], without: Collection[int] = ()) -> list[int]:
        text = prompt(document, pairs, self._relations, self._options.kind, without)
        return prompt_ids(text, self._tokenizer, self._options.template)

    def _answer(self, document: Document, pairs: Sequence[Pair], gold: Mapping[Pair, Sequence[str]]) -> str:
        return answer(document, {pair: gold.get(pair, ()) for pair in pairs}, self._relations, self._options.kind)

    def _count_each(self, texts: list[str]) -> list[int]:
        return [len(ids) for ids in self._tokenizer(texts, add_special_tokens=False)["input_ids"]]
