"""The `vllm` decoding backend: vLLM in this process.

Modes constrained and score follow the grammar (`lmrc.rc.decoding.grammar`) themselves, and ask vLLM only where it
leaves a choice: for the probabilities of the allowed tokens after the prompt and the answer so far. The prefix cache
has all but the tokens that the grammar has forced since, which are computed in one step. docs/inference.md compares
this with vLLM's structured outputs, which write every token in a step of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial

from lmrc.pretrained.packaged import resolve
from lmrc.pretrained.staging import staged
from lmrc.rc.decoding import constrained
from lmrc.rc.decoding.base import BackendInputs, QueryResult, likelihood_result, read_answers, score_result
from lmrc.rc.decoding.generate import Generation, to_generation
from lmrc.rc.decoding.grammar import Grammar, PartialAnswer
from lmrc.rc.decoding.line_tokens import merges_newlines
from lmrc.rc.decoding.scoring import line_logs_by_steps, scores_of_relations
from lmrc.rc.decoding.vllm_engine import NextTokens, VllmEngine, max_lora_rank
from lmrc.rc.model.adapter import check_adapter
from lmrc.rc.prompts.query_builder import Query, prompt_ids
from lmrc.rc.prompts.questions import encode_questions
from lmrc.rc.prompts.templates import PROMPTS
from lmrc.training.precision import inference_precision


class VllmBackend:
    """`DecodingBackend` with vLLM's engine, started by `load` or at the first query."""

    def __init__(self, inputs: BackendInputs) -> None:
        self._inputs = inputs
        self._decode, self._adapter = inputs.config.decode, inputs.config.rc
        self._prompt, self._tokenizer = inputs.metadata.prompt, inputs.tokenizer

    @cached_property
    def engine(self) -> VllmEngine:
        """Return the engine, started at its first use."""
        if self._decode.mode != "free":
            # Before the weights, which take minutes.
            merges_newlines(self._tokenizer)
        base = staged(resolve(self._inputs.base))
        if self._adapter is not None:
            max_lora_rank(self._adapter)
            check_adapter(self._adapter, self._inputs.base)
        precision = inference_precision(self._inputs.metadata.precision, "the LM")
        return VllmEngine(base, self._adapter, precision, self._prompt.max_length, self._decode.gpus_per_worker)

    def load(self) -> None:
        """Start the engine.

        Raises:
            UserError: vLLM is not installed, the adapter does not fit the base LM, or the mode is not free, and the
                ids of an answer line depend on the next line.
        """
        _ = self.engine

    def answer(self, queries: Iterable[Query]) -> Iterator[QueryResult]:
        """Yield one result per query, in the order of the queries. All queries are submitted at once."""
        inputs, asked = self._inputs, list(queries)
        if PROMPTS[self._prompt.kind].asks_relations:
            yield from self._likelihoods(asked)
        elif self._decode.mode == "score":
            yield from self._scores(asked)
        else:
            generations = self._free(asked) if self._decode.mode == "free" else self._constrained(asked)
            yield from read_answers(generations, inputs.document_of, inputs.relations, self._prompt, self._decode)

    def _prompt_ids(self, query: Query) -> list[int]:
        return prompt_ids(query.prompt, self._tokenizer, self._prompt.template)

    def _limit(self, query: Query) -> int:
        return min(query.answer_room, self._decode.max_new_tokens)

    def _grammar(self, query: Query) -> Grammar:
        document, inputs = self._inputs.document_of(query), self._inputs
        return Grammar(query, document, inputs.relations, self._prompt.kind, self._tokenizer, inputs.schema)

    def _free(self, queries: Sequence[Query]) -> Iterator[Generation]:
        prompts, limits = list(map(self._prompt_ids, queries)), list(map(self._limit, queries))
        completions = self.engine.complete(prompts, limits, self._tokenizer.eos_token_id)
        for query, completion in zip(queries, completions, strict=True):
            text = self._tokenizer.decode(completion.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            yield Generation(query, str(text), completion.finished)

    def _constrained(self, queries: Sequence[Query]) -> Iterator[Generation]:
        """Choose the most probable allowed token of each answer, until all have ended."""
        answers = [
            _Answer(self._prompt_ids(query), PartialAnswer(self._grammar(query)), self._limit(query))
            for query in queries
        ]
        active = [answer for answer in answers if answer.write_forced()]
        while active:
            allowed = [answer.partial.allowed() for answer in active]
            requests = [
                NextTokens([*answer.prompt, *answer.partial.ids], tokens)
                for answer, tokens in zip(active, allowed, strict=True)
            ]
            for answer, tokens, logs in zip(active, allowed, self.engine.next_logs(requests), strict=True):
                answer.choose(tokens, logs)
            active = [answer for answer in active if answer.write_forced()]
        for query, answer in zip(queries, answers, strict=True):
            written = constrained.Answer(answer.partial.complete_lines(), answer.choices)
            yield to_generation(query, written, self._tokenizer)

    def _scores(self, queries: Sequence[Query]) -> Iterator[QueryResult]:
        relations = PROMPTS[self._prompt.kind].answer_set(self._inputs.relations).relations
        prompts = list(map(self._prompt_ids, queries))
        line_logs = partial(line_logs_by_steps, self._log_probabilities, prompts)
        for query, scores in zip(
            queries, scores_of_relations(list(map(self._grammar, queries)), line_logs), strict=True
        ):
            yield score_result(query, relations, scores, self._decode.threshold)

    def _log_probabilities(self, asked: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Return the log probability of each token after its prompt, among the tokens that are asked about."""
        return [normalize(logs) for logs in self.engine.next_logs([NextTokens(*request) for request in asked])]

    def _likelihoods(self, queries: Sequence[Query]) -> Iterator[QueryResult]:
        """Ask for each token of each name after the tokens before it, all at once."""
        requests, lengths = list[NextTokens](), list[list[int]]()
        for query in queries:
            example = encode_questions(query, self._tokenizer, self._prompt.template)
            assert example.questions is not None
            ids, start = example.input_ids.tolist(), example.prompt_tokens
            prompt, names = ids[:start], example.questions.name_tokens.tolist()
            for length, name in zip(example.questions.lengths.tolist(), names, strict=True):
                question = ids[start : start + length]
                requests += [
                    NextTokens([*prompt, *question[:end]], [question[end]]) for end in range(length - name, length)
                ]
                start += length
            lengths.append(names)
        logs = iter(self.engine.next_logs(requests))
        for query, names in zip(queries, lengths, strict=True):
            scores = [math.exp(sum(next(logs)[0] for _ in range(tokens))) for tokens in names]
            yield likelihood_result(query, scores, self._decode.threshold)


class _Answer:
    """An answer that is being written.

    Attributes:
        choices: as in `lmrc.rc.decoding.constrained.Answer`.
    """

    def __init__(self, prompt: list[int], partial: PartialAnswer, max_tokens: int) -> None:
        self.prompt, self.partial = prompt, partial
        self.choices: list[tuple[int, float]] = []
        self._max_tokens = max_tokens

    def write_forced(self) -> bool:
        """Append the tokens that the grammar forces. Return True if a choice follows."""
        self.partial.write_forced(self._max_tokens - len(self.partial.ids))
        return not self.partial.ended and len(self.partial.ids) < self._max_tokens

    def choose(self, tokens: Sequence[int], logs: Sequence[float]) -> None:
        """Append the most probable token."""
        logs = normalize(logs)
        best = max(range(len(tokens)), key=logs.__getitem__)
        self.partial.write(tokens[best])
        self.choices.append((self.partial.line, logs[best]))


def normalize(logs: Sequence[float]) -> list[float]:
    """Return log probabilities that are normalized over these tokens."""
    largest = max(logs)
    total = largest + math.log(sum(math.exp(log - largest) for log in logs))
    return [log - total for log in logs]
