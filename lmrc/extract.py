"""Triples of new documents, found with both models on this machine: RCP proposes pairs, the LM names their relations.

The score of a triple is P(pair) x P(relation), or with a fusion its calibrated probability. P(pair) is equation 6.
P(relation) is the LM's probability of the relation among those possible for the pair
(`lmrc.rc.decoding.constrained`, `lmrc.rc.decoding.scoring`). Their product ranks triples; it is calibrated only as well
as both models are.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import NamedTuple

import torch

from lmrc.common.errors import UserError, counted
from lmrc.common.exit_codes import Interrupted
from lmrc.common.input_checks import check_output
from lmrc.common.progress import DocumentProgress
from lmrc.config.schema import DecodeOptions, ExtractConfig, PromptOptions
from lmrc.corpus.candidates import Candidate, RelationLogit
from lmrc.corpus.docred import candidate_pairs, read_documents
from lmrc.corpus.predictions import Prediction, predictions_writer
from lmrc.corpus.reading.names import NameCounts
from lmrc.corpus.relation_schema import RelationSchema, entity_types
from lmrc.corpus.relations import DOCRED, RelationSet, read_relations
from lmrc.corpus.types import Document, Triple
from lmrc.evaluation.tables.table import Table
from lmrc.fusion.model import Fusion
from lmrc.fusion.scorer import Scorer
from lmrc.rc.decoding.hf_backend import LocalBackend, load_lm
from lmrc.rc.fused import unscored
from lmrc.rc.model.adapter import adapter_base
from lmrc.rc.model.adapter_metadata import AdapterMetadata
from lmrc.rc.model.lora import load_tokenizer
from lmrc.rc.prompts.query_builder import Query, QueryBuilder
from lmrc.rc.prompts.questions import QuestionBuilder, questions_about
from lmrc.rc.prompts.templates import PROMPTS, entity_name
from lmrc.rcp.model.model import check_folder, predicts_relations
from lmrc.rcp.predict import Proposal, Proposer
from lmrc.rcp.thresholds import find_threshold
from lmrc.text.layout import TextDocument
from lmrc.text.windows import Split, merged, split

logger = logging.getLogger(__name__)

# Batches of documents in memory. More would fill the LM's batches better, but report progress less often.
BATCHES = 2
# Triples that the summary shows with their names.
SHOWN = 8
_LONGEST_NAME = 40


@dataclass(slots=True)
class ExtractionStats:
    """Counts over the documents that were extracted."""

    documents: int = 0
    pairs: int = 0
    kept: int = 0
    # Pairs that the LM was asked about; fewer than `kept` with a fusion.
    asked: int = 0
    triples: int = 0
    # Documents for which RCP proposed no pair.
    documents_without_pairs: int = 0
    # Mentions after the last token that RCP reads.
    cut_mentions: int = 0
    # Entities whose type RCP has no embedding for.
    unknown_types: int = 0
    # Answers of the LM that reached the length limit.
    unfinished: int = 0
    # Queries whose prompt lacks some sentences, to fit.
    shortened: int = 0
    # Pairs that are offered all relations, because the relation schema admits none.
    unrestricted: int = 0
    # Documents that were read in several windows, the number of these, sentences that were divided because they are
    # longer than a window, and pairs of entities that share no window.
    long_documents: int = 0
    windows: int = 0
    divided: int = 0
    apart: int = 0
    # (title, head name, relation name, tail name, score) of the triples with the best scores, in that order.
    best: list[tuple[str, str, str, str, float]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{counted(self.triples, 'triple')} of {counted(self.documents, 'document')}"]
        if self.pairs:
            share = 100.0 * self.kept / self.pairs
            lines.append(f"{self.kept:,} of {counted(self.pairs, 'pair')} kept ({share:.1f} %)")
        if self.asked < self.kept:
            lines.append(f"the LM was asked about {self.asked:,} of these pairs")
        if self.documents_without_pairs:
            lines.append(f"{counted(self.documents_without_pairs, 'document')} without any pair kept")
        if self.unfinished:
            lines.append(f"{counted(self.unfinished, 'answer')} cut short by the limit of tokens")
        if self.cut_mentions:
            lines.append(f"{counted(self.cut_mentions, 'mention')} beyond the end of RCP's window")
        if self.shortened:
            lines.append(f"{counted(self.shortened, 'prompt')} left out some sentences of the text, to fit")
        if self.unrestricted:
            lines.append(
                f"{counted(self.unrestricted, 'pair')} with all relations offered, because the schema admits none"
            )
        if self.long_documents:
            lines.append(
                f"{counted(self.long_documents, 'document')} longer than the models can hold, read in "
                f"{self.windows:,} windows of sentences"
            )
        if self.apart:
            lines.append(f"{counted(self.apart, 'pair')} of entities not asked about, because they share no window")
        if self.divided:
            lines.append(f"{counted(self.divided, 'sentence')} divided, because longer than a window")
        if self.unknown_types:
            lines.append(f"{counted(self.unknown_types, 'entity', 'entities')} of types that RCP was not trained on")
        if self.best:
            rows = [(*map(_short, names), f"{score:.3f}") for *names, score in self.best]
            table = Table(("document", "head", "relation", "tail", "score"), tuple(rows), labels=4).text()
            of = f"The {len(rows)} of {self.triples:,} triples with the best scores:"
            lines = [*([of] if len(rows) < self.triples else []), table, "", *lines]
        return "\n".join(lines)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


class _Found(NamedTuple):
    """Number of candidates and triples of a document, or of a window of one."""

    kept: int
    triples: list[Prediction]


class TripleExtractor:
    """Both models, loaded once and applied to batches of documents. `relations` is the LM's relation set."""

    def __init__(self, config: ExtractConfig, device: str | None = None) -> None:
        """Load RCP. The LM is loaded when the first document has a candidate.

        Args:
            config: the models and how they are applied; `documents` and `out` are not read.
            device: device of both models, such as "cpu" or "cuda:1"; by default the GPUs if there are any.

        Raises:
            UserError: a model is missing or damaged, the adapter's relations are unknown or differ from the given
                ones, or this machine has fewer GPUs than were asked for.
        """
        self._config = config
        check_gpus(config)
        asked = PromptOptions() if config.truncate is None else PromptOptions(truncate=config.truncate)
        settings = AdapterMetadata.read_for(config.rc, asked)
        prompt = PROMPTS[settings.prompt.kind]
        if not prompt.names_relations:
            raise UserError(f"{config.rc} says Yes or No, it names no relations: give an adapter of kind rc or direct")
        if prompt.asks_relations and config.mode != "score" and config.fusion is None:
            raise UserError(f"{config.rc} scores triples and writes no answers: give --mode score")
        self.relations = relation_set(config, settings)
        given = config.schema
        if given is not None and prompt.asks_relations:
            raise UserError(
                f"--schema has no effect: {config.rc} answers questions about the relations that the encoder finds "
                "(prompt.kind likelihood); leave it out"
            )
        self._schema = settings.schema if given is None else RelationSchema.read(given, self.relations)
        self.stats = ExtractionStats()
        # Called for each document whose questions are answered, before its batch is done.
        self.on_document: Callable[[], None] = lambda: None
        check_folder(config.rcp)
        if (prompt.asks_relations or config.fusion is not None) and not predicts_relations(config.rcp):
            raise UserError(
                f"{config.rcp} has no relation head, which a fusion and prompt.kind likelihood need: train RCP with "
                "--train.relation-weight 1 (any weight above 0)"
            )
        threshold = find_threshold(config.rcp, config.threshold)
        base, tokenizer = adapter_base(config.rc), load_tokenizer(str(config.rc))
        self._fusion = None if config.fusion is None else Fusion.read(config.fusion)
        if self._fusion is not None:
            self._threshold = self._fusion.threshold(config.ask, config.precision)
        self._scorer = Scorer(self._fusion, config.ask, self.relations, unscored(settings.prompt))
        mode = config.mode if self._fusion is None else "score"
        decode = DecodeOptions(mode=mode, threshold=config.relation_threshold, batch_size=config.batch_size)
        self._options = settings.prompt
        self._builder = (
            QuestionBuilder(tokenizer, self.relations, settings.prompt)
            if prompt.asks_relations
            else QueryBuilder(tokenizer, self.relations, settings.prompt, decode.max_new_tokens)
        )
        self._batch: list[Document] = []
        self._answering = LocalBackend(
            lambda: load_lm(base, config.rc, settings, config.gpus, device),
            tokenizer,
            settings.prompt,
            decode,
            self.relations,
            self._document,
            self._builder.shared_prefix(),
            self._schema,
        )
        self._proposer = Proposer(config.rcp, threshold, config.top_k, config.batch_size, device)

    def _document(self, query: Query) -> Document:
        return self._batch[query.document]

    @property
    def known_types(self) -> Collection[str]:
        """Return the entity types that RCP reads; empty if it reads none."""
        return self._proposer.known_types

    def fits(self, document: Document) -> bool:
        """Return True if both models can hold the whole document, the LM if need be with `truncate`."""
        if not self._proposer.fits(document):
            return False
        try:
            query = self._longest_query(0, document)
            if query is not None and query.left_out:
                if self._config.truncate is None:
                    return False
                self.check(0, document)
        except UserError:
            return False
        return True

    def explain(self, document: Document) -> None:
        """Raise UserError, because a document that cannot be divided does not fit."""
        self.check(0, document)
        raise UserError(f"document {document.title!r}: a single mention or word is longer than RCP reads; shorten it")

    def check(self, index: int, document: Document) -> None:
        """Check that the prompt of every pair of a document fits.

        Raises:
            UserError: it does not.
        """
        query = self._longest_query(index, document)
        if query is not None and query.left_out:
            # If sentences are dropped, those that stay depend on the pair.
            pairs = candidate_pairs(len(document.entities))
            for _ in self._queries(index, document, [Candidate(*pair, 1.0, self._every_relation()) for pair in pairs]):
                pass

    def _longest_query(self, index: int, document: Document) -> Query | None:
        """Return the query about the pair with the longest names, which needs the longest prompt; None without pairs.

        Raises:
            UserError: it does not fit.
        """
        longest = sorted(range(len(document.entities)), key=lambda e: len(entity_name(document, e)))[-2:]
        if len(longest) < 2:
            return None
        return next(self._queries(index, document, [Candidate(longest[0], longest[1], 1.0, self._every_relation())]))

    def _every_relation(self) -> tuple[RelationLogit, ...]:
        """Return all relations such that those with the longest names are asked about first."""
        return tuple(
            RelationLogit(id, float(len(name)))
            for id, name in zip(self.relations.ids, self.relations.names, strict=True)
        )

    def _queries(self, index: int, document: Document, candidates: Sequence[Candidate]) -> Iterator[Query]:
        """Return the queries about candidates of a document."""
        if isinstance(self._builder, QuestionBuilder):
            return self._builder.build(index, document, questions_about(candidates, self._options))
        return self._builder.build(index, document, [(candidate.head, candidate.tail) for candidate in candidates])

    def extract(self, documents: Iterable[Document]) -> Iterator[tuple[Document, list[Prediction]]]:
        """Yield each document with its triples, in order. Only a few batches are in memory at a time.

        Raises:
            UserError: the prompt of a document does not fit.
        """
        source = iter(documents)
        while batch := list(islice(source, self._at_once)):
            for document, found in zip(batch, self._extract_batch(batch, lambda _: self.on_document()), strict=True):
                self._count_document(document, found.kept, found.triples)
                yield document, found.triples

    def extract_long(self, documents: Iterable[TextDocument]) -> Iterator[tuple[TextDocument, list[Prediction]]]:
        """Yield each document with its triples, in order, also of documents without entities.

        A document that is longer than the models can hold is read in windows. Only a few documents are in memory.

        Raises:
            UserError: a single mention does not fit.
        """
        source = iter(documents)
        while batch := list(islice(source, self._at_once)):
            splits = [split(text.document, self.fits, self.explain) for text in batch]
            found = iter(self._extract_windows(splits))
            for text, parts in zip(batch, splits, strict=True):
                own = list(islice(found, len(parts.windows)))
                triples = merged(text.document.title, parts.windows, [part.triples for part in own])
                self._count_split(parts)
                self._count_document(text.document, sum(part.kept for part in own), triples)
                yield text, triples

    def _extract_windows(self, splits: Sequence[Split]) -> list[_Found]:
        """Return the triples of all windows of some documents, in order."""
        sources = [index for index, parts in enumerate(splits) for _ in parts.windows]
        windows = [window.document for parts in splits for window in parts.windows]
        left = Counter(sources)

        def count(start: int, index: int) -> None:
            source = sources[start + index]
            left[source] -= 1
            if not left[source]:
                self.on_document()

        for index in range(len(splits)):
            if index not in left:
                self.on_document()
        found: list[_Found] = []
        for start in range(0, len(windows), self._at_once):
            part = windows[start : start + self._at_once]
            found += self._extract_batch(part, partial(count, start))
        return found

    @property
    def _at_once(self) -> int:
        """Return the number of documents in memory."""
        return BATCHES * self._config.batch_size

    def _extract_batch(self, batch: list[Document], answered: Callable[[int], None]) -> list[_Found]:
        """Return the triples of each document of the batch. What the models did is added to `stats`.

        Args:
            answered: called with the index of each document whose last question is answered.
        """
        self._batch = batch
        proposals = self._proposer.propose(batch)
        queries: list[Query] = []
        for index, (document, proposal) in enumerate(zip(batch, proposals, strict=True)):
            asked = self._asked(proposal.candidates)
            self.stats.asked += len(asked)
            if asked:
                queries += self._queries(index, document, asked)
        left = Counter(query.document for query in queries)
        for index in range(len(batch)):
            if index not in left:
                answered(index)
        answers: list[dict[Triple, float]] = [{} for _ in batch]
        # Without a query the LM need not be loaded.
        for result in self._answering.answer(queries) if queries else ():
            index = result.query.document
            self.stats.unfinished += not result.finished
            self.stats.shortened += bool(result.query.left_out)
            for scored in result.triples:
                # None: the grammar left no choice.
                answers[index][scored.triple] = 1.0 if scored.score is None else scored.score
            left[index] -= 1
            if not left[index]:
                answered(index)
        for document, proposal in zip(batch, proposals, strict=True):
            self._count_proposal(document, proposal)
        return [
            _Found(
                len(proposal.candidates),
                [Prediction(document.title, *triple, score=score) for triple, score in self._scored(proposal, found)],
            )
            for document, proposal, found in zip(batch, proposals, answers, strict=True)
        ]

    def _asked(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Return the candidates that the LM is asked about."""
        if self._fusion is None:
            return candidates
        pairs = set(self._scorer.pairs(candidates))
        return [candidate for candidate in candidates if (candidate.head, candidate.tail) in pairs]

    def _scored(self, proposal: Proposal, answers: dict[Triple, float]) -> Iterator[tuple[Triple, float]]:
        """Yield the triples of a document that reach the threshold, with their scores.

        Args:
            answers: the LM's probability of each triple.
        """
        if self._fusion is not None:
            scored = self._scorer.triples(proposal.candidates, answers)
            yield from ((triple, score) for triple, score in scored if score >= self._threshold)
            return
        pair_probabilities = {(pair.head, pair.tail): pair.probability for pair in proposal.candidates}
        for triple, score in answers.items():
            if self._config.mode == "constrained" or score >= self._config.relation_threshold:
                yield triple, pair_probabilities[triple.head, triple.tail] * score

    def _count_proposal(self, document: Document, proposal: Proposal) -> None:
        stats = self.stats
        stats.pairs += proposal.pairs
        stats.kept += len(proposal.candidates)
        stats.cut_mentions += proposal.cut_mentions
        stats.unknown_types += proposal.unknown_types
        if self._schema is not None:
            types = entity_types(document)
            pairs = [(types[pair.head], types[pair.tail]) for pair in proposal.candidates]
            stats.unrestricted += sum(not self._schema.admissible(*pair) for pair in pairs)

    def _count_split(self, parts: Split) -> None:
        if parts.parts > 1:
            self.stats.long_documents += 1
            self.stats.windows += parts.parts
            self.stats.divided += parts.divided
            self.stats.apart += parts.apart

    def _count_document(self, document: Document, kept: int, predictions: Sequence[Prediction]) -> None:
        stats = self.stats
        stats.documents += 1
        stats.documents_without_pairs += not kept
        stats.triples += len(predictions)
        for prediction in predictions:
            head, tail = entity_name(document, prediction.head), entity_name(document, prediction.tail)
            row = (document.title, head, self.relations.name(prediction.relation), tail, prediction.score or 0.0)
            stats.best.append(row)
        # A stable sort, so that the first of equal scores stay.
        stats.best = sorted(stats.best, key=lambda row: -row[-1])[:SHOWN]


class Extraction(TripleExtractor):
    """`lmrc extract`: a file of documents in, a file of triples out."""

    def __init__(self, config: ExtractConfig) -> None:
        """Load RCP; see `TripleExtractor`.

        Raises:
            UserError: also if `config.out` cannot be written.
        """
        if config.out is None:
            raise UserError("--out is missing: give the file of the triples, such as triples.json")
        check_output(config.out)
        self._out = config.out
        super().__init__(config)

    def run(self) -> ExtractionStats:
        """Check all documents, extract their triples, and write `config.out` in the submission format.

        `config.out` is replaced only after the last document.

        Raises:
            UserError: a document is malformed or does not fit the prompt, or the file cannot be written.
            Interrupted: Ctrl-C was pressed.
        """
        try:
            with predictions_writer(self._out) as write:
                with DocumentProgress("checking", None, sys.stderr) as progress:
                    total = self._check_documents(progress)
                with DocumentProgress("extracting", total, sys.stderr) as progress:
                    self.on_document = lambda: progress.add(1)
                    for _, triples in self.extract(read_documents(self._config.documents, None)):
                        write(triples)
        except KeyboardInterrupt:
            raise Interrupted(f"stopped; {self._out} was not written") from None
        return self.stats

    def _check_documents(self, progress: DocumentProgress) -> int:
        """Return the number of documents; raise UserError if one is malformed or does not fit the prompt."""
        count, names = 0, NameCounts()
        for index, document in enumerate(read_documents(self._config.documents, None)):
            try:
                self.check(index, document)
            except UserError as error:
                raise UserError(
                    f"{self._config.documents}: {error}; nothing was extracted (--out NAME.jsonl reads long documents "
                    "in windows)"
                ) from None
            names.add(document, index)
            progress.add(1)
            count += 1
        if warning := names.warning("add 1 to the ends"):
            logger.warning(f"{self._config.documents}: {warning}")
        return count


def check_gpus(config: ExtractConfig) -> None:
    """Check that this machine has as many GPUs as `config.gpus`, if it was given.

    Raises:
        UserError: it has fewer.
    """
    available = torch.cuda.device_count()
    if "gpus" in config.model_fields_set and config.gpus > available:
        raise UserError(
            f"--gpus is {config.gpus}, but this machine has {available or 'none'}: lower it or leave it out"
        )


def relation_set(config: ExtractConfig, settings: AdapterMetadata) -> RelationSet:
    """Return the relations that the adapter was trained with.

    Raises:
        UserError: the adapter does not hold them and none were given, or the given ones differ.
    """
    if config.relations is not None:
        given = read_relations(config.relations)
        if given.sha256 != settings.relations_sha256:
            raise UserError(
                f"{config.rc} was trained with another relation set than {config.relations} (ids, names or order "
                "differ): give the file that the training corpus was built with, or leave it out to use the adapter's"
            )
        return given
    stored = settings.relations or DOCRED
    if stored.sha256 != settings.relations_sha256:
        raise UserError(
            f"{config.rc} does not hold its relation set, which is not DocRED's: give its file as --relations"
        )
    return stored
