"""The interface of decoding backends, their inputs and their results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from lmrc.config.schema import ClassifyConfig, DecodeOptions, PromptOptions
from lmrc.corpus.relation_schema import RelationSchema
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document, Triple
from lmrc.rc.decoding.generate import Generation
from lmrc.rc.decoding.parsing import UnknownRelation, parse
from lmrc.rc.model.adapter_metadata import AdapterMetadata
from lmrc.rc.prompts.query_builder import Query
from lmrc.rc.prompts.templates import PROMPTS

# Relations of lower probability are dropped in mode score.
MIN_SCORE = 0.01


@dataclass(frozen=True, slots=True)
class ScoredTriple:
    """A triple and its probability, or None if the backend gives no probabilities."""

    triple: Triple
    score: float | None


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The parsed answer to a query.

    Attributes:
        text: the answer as written; empty in mode score, which writes none.
        finished: False if the answer was cut at its token limit; True in mode score.
        triples: triples of the answer; in mode score, those of at least `MIN_SCORE`.
        none: number of pairs answered with no relation.
        failures: parsing failures by kind (`lmrc.rc.decoding.parsing.Parsed`).
        unknown: answered relations that are not in the relation set.
    """

    query: Query
    text: str
    finished: bool
    triples: tuple[ScoredTriple, ...]
    none: int
    failures: Counter[str]
    unknown: tuple[UnknownRelation, ...]


class DecodingBackend(Protocol):
    """Answers queries, with a model in this process or on a server."""

    def load(self) -> None:
        """Load the model, if it runs in this process.

        Raises:
            UserError: the model, its adapter or a package is missing, or they do not fit each other.
        """

    def answer(self, queries: Iterable[Query]) -> Iterator[QueryResult]:
        """Yield one result per query, in the order of the queries."""


@dataclass(frozen=True, slots=True)
class BackendInputs:
    """Arguments that each backend is created from.

    Attributes:
        base: name or folder of the base LM.
        metadata: metadata of the adapter.
        shared_prefix: token ids that all prompts start with.
        answer_folder: folder in which a backend may keep answers.
        document_of: returns the document of a query.
        messages_of: returns a query as chat messages (`role`, `content`), after the demonstrations.
        schema: restricts the answers of the grammar; None for all relations.
    """

    config: ClassifyConfig
    base: str
    metadata: AdapterMetadata
    tokenizer: PreTrainedTokenizerBase
    relations: RelationSet
    shared_prefix: Sequence[int]
    answer_folder: Path
    document_of: Callable[[Query], Document]
    messages_of: Callable[[Query], Sequence[dict[str, str]]]
    schema: RelationSchema | None = None


def read_answers(
    generations: Iterable[Generation],
    document_of: Callable[[Query], Document],
    relations: RelationSet,
    prompt: PromptOptions,
    decode: DecodeOptions,
) -> Iterator[QueryResult]:
    """Parse generated answers into triples."""
    answers = PROMPTS[prompt.kind].answer_set(relations)
    for generation in generations:
        query = generation.query
        parsed = parse(
            generation.text, document_of(query), query.pairs, answers.relations, decode.min_fuzzy_score, answers.none
        )
        scores = generation.line_scores
        triples = tuple(
            ScoredTriple(triple, scores[line] if scores else None)
            for triple, line in zip(parsed.triples, parsed.lines, strict=True)
        )
        yield QueryResult(
            query, generation.text, generation.finished, triples, parsed.none, parsed.failures, parsed.unknown
        )


def score_result(
    query: Query, relations: RelationSet, scores: Sequence[Sequence[float]], threshold: float
) -> QueryResult:
    """Return the result of mode score.

    Args:
        scores: probability of each relation for each pair [pairs][relations].
        threshold: a pair whose relations are all less probable counts as None.
    """
    triples = tuple(
        ScoredTriple(Triple(head, tail, relation), score)
        for (head, tail), pair_scores in zip(query.pairs, scores, strict=True)
        for relation, score in zip(relations.ids, pair_scores, strict=True)
        if score >= MIN_SCORE
    )
    none = sum(max(pair_scores) < threshold for pair_scores in scores)
    return QueryResult(query, "", True, triples, none, Counter(), ())


def likelihood_result(query: Query, scores: Sequence[float], threshold: float) -> QueryResult:
    """Return the result of a query of kind likelihood.

    Args:
        scores: probability of the tail's name for each question.
        threshold: a pair whose questions are all less probable counts as None.
    """
    triples = tuple(
        ScoredTriple(question.triple, score) for question, score in zip(query.questions, scores, strict=True)
    )
    likely = {scored.triple[:2] for scored in triples if (scored.score or 0.0) >= threshold}
    return QueryResult(query, "", True, triples, len(query.pairs) - len(likely), Counter(), ())
