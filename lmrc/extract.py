"""Triples of new documents: RCP, then RC, a few documents at a time, on this machine.

The score of a triple is P(pair) x P(relation): of equation 6, and of the LM for this relation of the pair among the
possible ones (`lmrc.rc.decoding.constrained`, `lmrc.rc.decoding.scoring`). Both are as well calibrated as the models are; the order of
the triples is what the score is for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch

from lmrc.common.errors import UserError
from lmrc.common.exit_codes import Interrupted
from lmrc.common.input_checks import check_output
from lmrc.common.progress import DocumentProgress
from lmrc.config.schema import DecodeOptions, ExtractConfig, PromptOptions
from lmrc.corpus.docred import candidate_pairs, read_documents
from lmrc.corpus.predictions import Prediction, writing_predictions
from lmrc.corpus.relations import DOCRED, RelationSet, read_relations
from lmrc.corpus.types import Document
from lmrc.evaluation.tables.table import Table
from lmrc.rc.decoding.hf_backend import LocalBackend, load_lm
from lmrc.rc.model.adapter import adapter_base
from lmrc.rc.model.adapter_metadata import AdapterMetadata
from lmrc.rc.model.lora import load_tokenizer
from lmrc.rc.prompts.query_builder import Query, QueryBuilder
from lmrc.rc.prompts.templates import entity_name
from lmrc.rcp.model.model import check_folder
from lmrc.rcp.predict import Proposal, Proposer
from lmrc.rcp.thresholds import find_threshold

BATCHES = 2
"""Batches of documents that are in memory: more would fill the LM better, and tell less often how far it is."""
SHOWN = 8
"""Triples that are shown with their names."""
_LONGEST_NAME = 40


@dataclass(slots=True)
class ExtractionStats:
    """What was found."""

    documents: int = 0
    pairs: int = 0
    kept: int = 0
    triples: int = 0
    documents_without_pairs: int = 0
    """Where RCP kept none."""
    cut_mentions: int = 0
    """Mentions beyond the longest text of RCP."""
    unknown_types: int = 0
    """Entities whose type RCP has no embedding for, if it looks at types."""
    unfinished: int = 0
    """Answers of the LM that were cut."""
    shortened: int = 0
    """Queries without some sentences of the text, which did not fit."""
    first: list[tuple[str, str, str, float]] = field(default_factory=list)
    """Names of head, relation and tail, and score, of the first triples."""

    def __str__(self) -> str:
        share = 100.0 * self.kept / self.pairs if self.pairs else 0.0
        lines = [
            f"{self.triples:,} triples of {self.documents:,} documents; {self.unfinished:,} answers cut short",
            f"{self.kept:,} of {self.pairs:,} pairs kept ({share:.1f} %); {self.documents_without_pairs:,} documents "
            f"without any; {self.cut_mentions:,} mentions beyond RCP's longest text",
        ]
        if self.shortened:
            lines.append(f"{self.shortened:,} queries were about a text without some of its sentences, to fit")
        if self.unknown_types:
            lines.append(f"{self.unknown_types:,} entities are of types that RCP was not trained on")
        if self.first:
            rows = [
                (_short(head), relation, _short(tail), f"{score:.3f}") for head, relation, tail, score in self.first
            ]
            lines = [Table(("head", "relation", "tail", "score"), tuple(rows), labels=3).text(), "", *lines]
        return "\n".join(lines)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


class Extraction:
    """Both models, ready for the documents of `config`."""

    def __init__(self, config: ExtractConfig) -> None:
        """Load RCP. The LM is loaded when the first document has a candidate.

        Raises:
            UserError: a model is missing or damaged, the adapter names no relations or others than those that were
                given, or this machine has fewer GPUs than were asked for.
        """
        self._config = config
        check_gpus(config)
        check_output(config.out)
        asked = PromptOptions() if config.shorten is None else PromptOptions(shorten=config.shorten)
        settings = AdapterMetadata.read_for(config.rc, asked)
        if settings.prompt.kind == "rcp-llm":
            raise UserError(f"{config.rc} says Yes or No, it names no relations: give an adapter of kind rc or direct")
        self.relations = relation_set(config, settings)
        check_folder(config.rcp)
        threshold = find_threshold(config.rcp, config.threshold)
        base, tokenizer = adapter_base(config.rc), load_tokenizer(str(config.rc))
        decode = DecodeOptions(mode=config.mode, threshold=config.relation_threshold, batch_size=config.batch_size)
        self._builder = QueryBuilder(tokenizer, self.relations, settings.prompt, decode.max_new_tokens)
        self._chunk: list[Document] = []
        self._answering = LocalBackend(
            lambda: load_lm(base, config.rc, settings, config.gpus),
            tokenizer,
            settings.prompt,
            decode,
            self.relations,
            self._document,
            self._builder.beginning(),
        )
        self._proposer = Proposer(config.rcp, threshold, config.top_k, config.batch_size)

    def _document(self, query: Query) -> Document:
        return self._chunk[query.document]

    def run(self) -> ExtractionStats:
        """Write `config.out`, in the submission format, when all is done; what it held before stays until then.

        All documents are checked before the first is answered.

        Raises UserError at a malformed document, at one whose text does not fit the prompt, and where the file cannot
        be written; Interrupted at Ctrl-C.
        """
        found = ExtractionStats()
        try:
            with writing_predictions(self._config.out) as write:
                with DocumentProgress("checking", None, sys.stderr) as progress:
                    total = self._check(progress.add)
                with DocumentProgress("extracting", total, sys.stderr) as progress:
                    for chunk in self._chunks():
                        for triples in self._extract(chunk, found):
                            write(triples)
                        progress.add(len(chunk))
        except KeyboardInterrupt:
            raise Interrupted(f"stopped; {self._config.out} was not written") from None
        return found

    def _check(self, done: Callable[[int], None]) -> int:
        """The number of documents, if the LM can be asked about each."""
        index = -1
        for index, document in enumerate(read_documents(self._config.documents, None)):
            longest = sorted(range(len(document.entities)), key=lambda e: len(entity_name(document, e)))[-2:]
            if len(longest) == 2:
                try:
                    query = next(self._builder.build(index, document, [(longest[0], longest[1])]))
                    if query.left_out:
                        # What is left depends on the pair, not on its names alone.
                        for _ in self._builder.build(index, document, candidate_pairs(len(document.entities))):
                            pass
                except UserError as error:
                    raise UserError(f"{self._config.documents}: {error}; nothing was extracted") from None
            done(1)
        return index + 1

    def _chunks(self) -> Iterator[list[Document]]:
        documents = read_documents(self._config.documents, None)
        while chunk := list(islice(documents, BATCHES * self._config.batch_size)):
            yield chunk

    def _extract(self, chunk: list[Document], found: ExtractionStats) -> list[list[Prediction]]:
        """The triples of each document of the chunk."""
        self._chunk = chunk
        proposals = self._proposer.propose(chunk)
        queries: list[Query] = []
        for index, (document, proposal) in enumerate(zip(chunk, proposals, strict=True)):
            pairs = [(candidate.head, candidate.tail) for candidate in proposal.candidates]
            queries += self._builder.build(index, document, pairs)
        triples: list[list[Prediction]] = [[] for _ in chunk]
        probability = [{(pair.head, pair.tail): pair.probability for pair in each.candidates} for each in proposals]
        # Without a query the LM need not be loaded.
        for answered in self._answering.answer(queries) if queries else ():
            index = answered.query.document
            found.unfinished += not answered.finished
            found.shortened += bool(answered.query.left_out)
            for scored in answered.triples:
                triple = scored.triple
                # None: an answer in which there was nothing to choose.
                of_relation = 1.0 if scored.score is None else scored.score
                if self._config.mode == "constrained" or of_relation >= self._config.relation_threshold:
                    of_pair = probability[index][triple.head, triple.tail]
                    triples[index].append(Prediction(chunk[index].title, *triple, score=of_pair * of_relation))
        self._count(chunk, proposals, triples, found)
        return triples

    def _count(
        self,
        chunk: Sequence[Document],
        proposals: Sequence[Proposal],
        triples: Sequence[Sequence[Prediction]],
        found: ExtractionStats,
    ) -> None:
        for document, proposal, of_document in zip(chunk, proposals, triples, strict=True):
            found.documents += 1
            found.pairs += proposal.pairs
            found.kept += len(proposal.candidates)
            found.documents_without_pairs += not proposal.candidates
            found.cut_mentions += proposal.cut_mentions
            found.unknown_types += proposal.unknown_types
            found.triples += len(of_document)
            for one in of_document[: SHOWN - len(found.first)]:
                head, tail = entity_name(document, one.head), entity_name(document, one.tail)
                found.first.append((head, self.relations.name(one.relation), tail, one.score or 0.0))


def check_gpus(config: ExtractConfig) -> None:
    """Raise UserError if `gpus` was given and this machine has fewer."""
    there = torch.cuda.device_count()
    if "gpus" in config.model_fields_set and config.gpus > there:
        raise UserError(f"--gpus is {config.gpus}, but this machine has {there or 'none'}: lower it or leave it out")


def relation_set(config: ExtractConfig, settings: AdapterMetadata) -> RelationSet:
    """The relations the adapter names, once it is sure that they are those it was trained with.

    Raises UserError where they are not, or are not known.
    """
    if config.relations is not None:
        given = read_relations(config.relations)
        if given.sha256 != settings.relations_sha256:
            raise UserError(
                f"{config.rc} was trained with another relation set than that of {config.relations}, whose ids, names "
                "and order count: give the file that the training corpus was built with, or none for the adapter's own"
            )
        return given
    known = settings.relations or DOCRED
    if known.sha256 != settings.relations_sha256:
        raise UserError(
            f"{config.rc} does not hold its relation set, which is not DocRED's: give its file as --relations"
        )
    return known
