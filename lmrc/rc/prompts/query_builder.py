"""Queries (a prompt about pairs of one document) and examples (the token ids of a query and its answer).

Prompt and answer are tokenized separately and their ids concatenated, so that a prompt has the same ids in training
and inference.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lmrc.common.errors import UserError
from lmrc.config.schema import PromptOptions, PromptTemplate
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document, Mention, Triple
from lmrc.rc.prompts.templates import PROMPTS, Pair, check_relations, entity_name, line
from lmrc.rc.prompts.truncation import sentences_to_drop

# Answer lines reserved per pair if the answer is unknown, each as long as a line with the longest relation name. Gold
# answers of Re-DocRED need 0.9 on average, and more than 1.5 in 2 of 1,000 documents.
RESERVED_LINES = 1.5
# Answer lines per pair after which generation stops if the answer has not ended.
MAX_LINES = 3


class Question(NamedTuple):
    """A line after a prompt of kind likelihood.

    Attributes:
        cue: start of the line, with head and relation.
        name: rest of the line, with the name of the tail, which the LM predicts.
    """

    triple: Triple
    cue: str
    name: str


@dataclass(frozen=True, slots=True)
class Query:
    """One prompt.

    Attributes:
        document: index in the corpus.
        pairs: the pairs asked about, sorted by (head, tail).
        answer: the gold answer, if it is known.
        answer_room: maximum number of tokens to generate.
        left_out: indices of sentences that are not in the prompt, in document order.
        questions: the lines after a prompt of kind likelihood, which has no answer to write.
    """

    document: int
    title: str
    pairs: tuple[Pair, ...]
    prompt: str
    answer: str | None
    answer_room: int
    left_out: tuple[int, ...] = ()
    questions: tuple[Question, ...] = ()


class EncodedQuestions(NamedTuple):
    """The lines after a prompt of kind likelihood. All are int32.

    Attributes:
        lengths: number of tokens of each line [questions].
        name_tokens: number of tokens to predict, at the end of each line [questions].
    """

    lengths: Tensor
    name_tokens: Tensor


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of a query and what is to be predicted: the answer and end of sequence, or names of tails.

    Attributes:
        input_ids: int32 [tokens].
        prompt_tokens: number of tokens of the prompt.
        questions: the lines after a prompt of kind likelihood; None for other kinds.
    """

    input_ids: Tensor
    prompt_tokens: int
    questions: EncodedQuestions | None = None

    @property
    def answer_tokens(self) -> int:
        """Number of target tokens of a written answer, including the end of sequence."""
        return len(self.input_ids) - self.prompt_tokens


def prompt_ids(text: str, tokenizer: PreTrainedTokenizerBase, template: PromptTemplate | None = None) -> list[int]:
    """Return the token ids of a prompt, including the special tokens at its start.

    Args:
        template: llama2 puts the prompt between [INST] and [/INST]; chat makes it a user turn in the tokenizer's chat
            template; None leaves it as it is.

    Raises:
        UserError: if `template` is chat and the tokenizer has no chat template.
    """
    if template == "chat":
        if not tokenizer.chat_template:
            raise UserError("prompt.template is chat, but the tokenizer has no chat template: choose none or llama2")
        turns = [{"role": "user", "content": text}]
        # The template writes special tokens as text: do not add them a second time.
        text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        return list(_token_ids(text, tokenizer, False))
    if template == "llama2":
        text = f"[INST] {text.strip()} [/INST]"
    return list(_token_ids(text, tokenizer, True))


def answer_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token ids of an answer and the end of sequence."""
    return [*_token_ids(text, tokenizer, False), tokenizer.eos_token_id]


# Cached, because a query is tokenized to check that it fits and right after that to encode it.
@lru_cache(maxsize=8)
def _token_ids(text: str, tokenizer: PreTrainedTokenizerBase, add_special_tokens: bool) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])


def encode(query: Query, tokenizer: PreTrainedTokenizerBase, template: PromptTemplate | None = None) -> Example:
    """Return the token ids of a query whose answer is known."""
    if query.answer is None:
        raise ValueError("only a query with an answer is an example")
    prompt, answer = prompt_ids(query.prompt, tokenizer, template), answer_ids(query.answer, tokenizer)
    return Example(torch.tensor(prompt + answer, dtype=torch.int32), len(prompt))


def shared_length(sequences: Sequence[Sequence[int]]) -> int:
    """Return the length of the longest common prefix."""
    return sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*sequences, strict=False)))


@dataclass(frozen=True, slots=True)
class _PairTokens:
    """Number of tokens that a pair adds to a query.

    Attributes:
        prompt: its line in the prompt.
        answer: its lines in the answer.
        longest_line: an answer line with the longest relation name.
    """

    prompt: int
    answer: int
    longest_line: int


class QueryBuilder:
    """Splits the pairs of a document into as few queries as fit the token limits."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        relations: RelationSet,
        options: PromptOptions,
        answer_limit: int | None = None,
        demonstration_tokens: int = 0,
    ) -> None:
        """Create a builder.

        Args:
            answer_limit: maximum number of tokens of an answer; by default `options.max_length`.
            demonstration_tokens: tokens of the demonstrations before each query; they count towards
                `options.max_length`.

        Raises:
            UserError: if a relation name cannot be read back from an answer.
        """
        check_relations(relations)
        self._tokenizer = tokenizer
        self._relations = relations
        self._options = options
        self._prompt = PROMPTS[options.kind]
        self._demonstration_tokens = demonstration_tokens
        self._answer_limit = options.max_length if answer_limit is None else answer_limit
        answers = self._prompt.answer_set(relations)
        names = [*answers.relations.names, answers.none]
        counts = self._token_counts(names)
        self._longest_relation = names[counts.index(max(counts))]

    def build(
        self,
        index: int,
        document: Document,
        pairs: Iterable[Pair],
        gold: Mapping[Pair, Sequence[str]] | None = None,
    ) -> Iterator[Query]:
        """Yield the queries for `pairs` of a document; none if there are no pairs.

        If the text does not fit with a single pair and `options.truncate` is set, sentences are dropped for this pair.

        Args:
            gold: relation ids per pair, for training. With it, the tokens of the answer are counted; without it,
                RESERVED_LINES lines are reserved per pair.

        Raises:
            UserError: if a single pair does not fit.
        """
        rest = sorted(pairs)
        if not rest:
            return
        costs = self._costs(document, rest, gold)
        # The tokens of a query besides the lines of its pairs.
        fixed = self._demonstration_tokens + len(self._prompt_ids(document, rest[:1])) - costs[rest[0]].prompt
        while rest:
            limit = min(len(rest), self._options.pairs_per_query or len(rest))

            def fits(count: int, rest: Sequence[Pair] = rest) -> bool:
                return self._fits(*self._tokens(document, rest[:count], costs, gold))

            # The sum over lines estimates the tokens of the whole text. Correct it by counting the text itself.
            count = self._estimate_count([costs[pair] for pair in rest[:limit]], fixed)
            while count < limit and fits(count + 1):
                count += 1
            while count and not fits(count):
                count -= 1

            left_out = () if count else self._shorten(document, rest[0], costs, gold)
            count = count or 1
            chosen, rest = tuple(rest[:count]), rest[count:]
            prompt_tokens, _ = self._tokens(document, chosen, costs, gold, left_out)
            answer_room = 1 + MAX_LINES * sum(costs[pair].longest_line for pair in chosen)
            yield Query(
                document=index,
                title=document.title,
                pairs=chosen,
                prompt=self._prompt.render(document, chosen, self._relations, left_out),
                answer=None if gold is None else self._answer(document, chosen, gold),
                answer_room=min(answer_room, self._answer_limit, self._options.max_length - prompt_tokens),
                left_out=left_out,
            )

    def shared_prefix(self) -> list[int]:
        """Return the token ids at the start of every prompt: instruction and relation set."""
        prompts = []
        for word in ("A", "0", "(", "\u4e2d"):
            entities = tuple((Mention(word, 0, 0, 1, "MISC"),) for _ in range(2))
            prompts.append(self._prompt_ids(Document(word, ((word,),), entities, None), [(0, 1)]))
        return prompts[0][: shared_length(prompts)]

    def _costs(
        self, document: Document, pairs: Sequence[Pair], gold: Mapping[Pair, Sequence[str]] | None
    ) -> dict[Pair, _PairTokens]:
        names = [(entity_name(document, head), entity_name(document, tail)) for head, tail in pairs]
        prompt = self._token_counts([line(head, "-", tail) + "\n" for head, tail in names])
        longest = self._token_counts([line(head, self._longest_relation, tail) + "\n" for head, tail in names])
        if gold is None:
            answer = [math.ceil(RESERVED_LINES * tokens) for tokens in longest]
        else:
            answer = self._token_counts([self._answer(document, [pair], gold) + "\n" for pair in pairs])
        return {pair: _PairTokens(*tokens) for pair, *tokens in zip(pairs, prompt, answer, longest, strict=True)}

    def _estimate_count(self, costs: Sequence[_PairTokens], fixed: int) -> int:
        """Return the number of pairs that fit by the sum of their lines, at least 1."""
        total, answer = fixed + 1, 1
        for count, cost in enumerate(costs):
            total += cost.prompt + cost.answer
            answer += cost.answer
            if total > self._options.max_length or answer > self._answer_limit:
                return max(1, count)
        return len(costs)

    def _tokens(
        self,
        document: Document,
        pairs: Sequence[Pair],
        costs: Mapping[Pair, _PairTokens],
        gold: Mapping[Pair, Sequence[str]] | None,
        left_out: Collection[int] = (),
    ) -> tuple[int, int]:
        """Return the number of tokens of the prompt with its demonstrations, and of the answer."""
        if gold is None:
            answer = 1 + sum(costs[pair].answer for pair in pairs)
        else:
            answer = len(answer_ids(self._answer(document, pairs, gold), self._tokenizer))
        return self._demonstration_tokens + len(self._prompt_ids(document, pairs, left_out)), answer

    def _fits(self, prompt_tokens: int, answer_tokens: int) -> bool:
        return prompt_tokens + answer_tokens <= self._options.max_length and answer_tokens <= self._answer_limit

    def _shorten(
        self,
        document: Document,
        pair: Pair,
        costs: Mapping[Pair, _PairTokens],
        gold: Mapping[Pair, Sequence[str]] | None,
    ) -> tuple[int, ...]:
        """Return the sentences to drop so that a query for this pair alone fits."""

        def tokens(left_out: Collection[int]) -> tuple[int, int]:
            return self._tokens(document, [pair], costs, gold, left_out)

        prompt_tokens, answer_tokens = tokens(())
        left_out: tuple[int, ...] = ()
        if self._options.truncate == "sentences" and answer_tokens <= self._answer_limit:
            left_out = sentences_to_drop(document, pair, lambda dropped: self._fits(*tokens(dropped)))
            prompt_tokens, answer_tokens = tokens(left_out)
        if not self._fits(prompt_tokens, answer_tokens):
            self._raise_too_long(document, prompt_tokens, answer_tokens, len(left_out))
        return left_out

    def _raise_too_long(self, document: Document, prompt_tokens: int, answer_tokens: int, left_out: int) -> NoReturn:
        if answer_tokens > self._answer_limit:
            # Not in the pre-flight: every document would have to be tokenized.
            raise UserError(
                f"document {document.title!r}: the answer for a single pair may need {answer_tokens} tokens, but an "
                f"answer is limited to {self._answer_limit}: raise decode.max_new_tokens or prompt.max_length"
            )
        details = f", even without the {left_out} sentences that mention neither entity" if left_out else ""
        if self._demonstration_tokens:
            details += f", {self._demonstration_tokens} of them for demonstrations"
        shorten = (
            "" if self._options.truncate else "give --prompt.truncate sentences (lmrc extract: --truncate sentences), "
        )
        # Not in the pre-flight: every document would have to be tokenized.
        raise UserError(
            f"document {document.title!r} needs {prompt_tokens + answer_tokens} tokens with a single pair and its "
            f"answer{details}, but prompt.max_length is {self._options.max_length}: {shorten}split the document, or "
            "raise prompt.max_length (an adapter must be trained with it)"
        )

    def _prompt_ids(self, document: Document, pairs: Sequence[Pair], left_out: Collection[int] = ()) -> list[int]:
        text = self._prompt.render(document, pairs, self._relations, left_out)
        return prompt_ids(text, self._tokenizer, self._options.template)

    def _answer(self, document: Document, pairs: Sequence[Pair], gold: Mapping[Pair, Sequence[str]]) -> str:
        return self._prompt.answer(document, {pair: gold.get(pair, ()) for pair in pairs}, self._relations)

    def _token_counts(self, texts: list[str]) -> list[int]:
        return [len(ids) for ids in self._tokenizer(texts, add_special_tokens=False)["input_ids"]]
