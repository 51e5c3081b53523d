"""Who answers queries: an LM of ours or a server; and what their answers say, one `QueryResult` a query."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lmrc.config.schema import DecodeOptions, PromptOptions
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document, Triple
from lmrc.rc.decoding.generate import Generation, generate
from lmrc.rc.decoding.grammar import Grammar
from lmrc.rc.decoding.parsing import Parsed, UnknownRelation, parse
from lmrc.rc.decoding.scoring import relation_scores
from lmrc.rc.model.adapter_metadata import AdapterMetadata
from lmrc.rc.model.kv_cache import PrefixCache
from lmrc.rc.model.lora import load_adapter, load_base, own_gpus
from lmrc.rc.model.packed_attention import IMPLEMENTATION
from lmrc.rc.prompts.query_builder import Query, prompt_ids
from lmrc.rc.prompts.templates import PROMPTS
from lmrc.training.precision import inference_precision

LEAST_SCORE = 0.01
"""Relations of less probability are not kept in mode score."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A triple, and its probability where it is known."""

    triple: Triple
    score: float | None


@dataclass(frozen=True, slots=True)
class QueryResult:
    """What the answer to a query says. `text` is empty, and `finished` true, where relations were only weighed."""

    query: Query
    text: str
    finished: bool
    triples: tuple[Scored, ...]
    none: int
    failures: Counter[str]
    unknown: tuple[UnknownRelation, ...]


def load_lm(
    base: str, adapter: Path | None, settings: AdapterMetadata, gpus: int = 1, device: str | None = None
) -> PreTrainedModel | PeftModel:
    """The LM with its adapter, if any, to answer with: on `gpus` GPUs, if any, in bf16 only where it is native.

    Raises ConfigError where there is no such model, or it does not fit.
    """
    precision = inference_precision(settings.precision, "the LM")
    devices = own_gpus(gpus) if device is None else [torch.device(device)]
    plain = load_base(base, IMPLEMENTATION, precision, settings.quantization, devices)
    return plain if adapter is None else load_adapter(plain, adapter)


class DecodingBackend(Protocol):
    """Answers queries."""

    def load(self) -> None:
        """Load what answers, if it is in this process. Raises UserError if it cannot be."""

    def answer(self, queries: Iterable[Query]) -> Iterator[QueryResult]:
        """The answers, in the order of the queries."""


class LocalBackend:
    """An LM of ours, loaded by `load` or at the first query."""

    def __init__(
        self,
        load: Callable[[], PreTrainedModel | PeftModel],
        tokenizer: PreTrainedTokenizerBase,
        prompt: PromptOptions,
        decode: DecodeOptions,
        relations: RelationSet,
        document_of: Callable[[Query], Document],
        beginning: Sequence[int],
    ) -> None:
        """`beginning`: token ids at the start of every prompt (`QueryBuilder.shared_prefix`)."""
        self._load, self._tokenizer = load, tokenizer
        self._prompt, self._decode = prompt, decode
        self._relations, self._document_of = relations, document_of
        self._beginning = PrefixCache(beginning)

    @cached_property
    def _model(self) -> PreTrainedModel | PeftModel:
        return self._load().eval()

    def load(self) -> None:
        """See `DecodingBackend`."""
        _ = self._model

    def _grammar(self, query: Query) -> Grammar:
        return Grammar(query, self._document_of(query), self._relations, self._prompt.kind, self._tokenizer)

    def answer(self, queries: Iterable[Query]) -> Iterator[QueryResult]:
        """See `DecodingBackend`."""
        if self._decode.mode == "score":
            for batch in _batches(queries, self._decode.batch_size):
                yield from self._weigh(batch)
            return
        generations = generate(
            self._model,
            self._tokenizer,
            queries,
            self._decode,
            self._grammar,
            self._beginning,
            self._prompt.template,
        )
        yield from read_answers(generations, self._document_of, self._relations, self._prompt, self._decode)

    @torch.inference_mode()
    def _weigh(self, queries: Sequence[Query]) -> Iterator[QueryResult]:
        answers = PROMPTS[self._prompt.kind].answer_set(self._relations)
        prompts = [prompt_ids(query.prompt, self._tokenizer, self._prompt.template) for query in queries]
        grammars = [self._grammar(query) for query in queries]
        found = relation_scores(self._model, prompts, grammars, self._beginning)
        for query, of_query in zip(queries, found, strict=True):
            triples = [
                Scored(Triple(head, tail, relation), score)
                for (head, tail), scores in zip(query.pairs, of_query, strict=True)
                for relation, score in zip(answers.relations.ids, scores, strict=True)
                if score >= LEAST_SCORE
            ]
            none = sum(max(scores) < self._decode.threshold for scores in of_query)
            yield QueryResult(query, "", True, tuple(triples), none, Counter(), ())


def _batches(queries: Iterable[Query], size: int) -> Iterator[tuple[Query, ...]]:
    source = iter(queries)
    while batch := tuple(islice(source, size)):
        yield batch


def read_answers(
    generations: Iterable[Generation],
    document_of: Callable[[Query], Document],
    relations: RelationSet,
    prompt: PromptOptions,
    decode: DecodeOptions,
) -> Iterator[QueryResult]:
    """What written answers say."""
    answers = PROMPTS[prompt.kind].answer_set(relations)
    for generation in generations:
        query = generation.query
        parsed: Parsed = parse(
            generation.text, document_of(query), query.pairs, answers.relations, decode.min_fuzzy_score, answers.none
        )
        scores = generation.line_scores
        triples = tuple(
            Scored(triple, scores[number] if scores else None)
            for triple, number in zip(parsed.triples, parsed.lines, strict=True)
        )
        yield QueryResult(
            query, generation.text, generation.finished, triples, parsed.none, parsed.failures, parsed.unknown
        )
