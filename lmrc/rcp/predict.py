"""Inference with the candidate classifier: propose the pairs whose P(relation) reaches a threshold."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from lmrc.common.errors import ConfigError, UserError, counted
from lmrc.config.schema import ProposeConfig
from lmrc.corpus.candidates import SCHEMA as CANDIDATES_SCHEMA
from lmrc.corpus.candidates import Candidate, RelationLogit, write_candidates
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.docred import candidate_pairs, relations_by_pair
from lmrc.corpus.predictions import Prediction, predictions_writer
from lmrc.corpus.relation_schema import RelationSchema
from lmrc.corpus.types import Document
from lmrc.inference.fingerprint import work_fingerprint
from lmrc.rcp.data.tokenization import DocumentTokenizer, EncodedDocument
from lmrc.rcp.metrics import f1_score
from lmrc.rcp.model.model import RelationCandidateModel, check_folder, predicted_relations, predicts_relations
from lmrc.rcp.thresholds import MIN_LOGIT, find_relation_threshold, find_threshold
from lmrc.training.precision import autocast, inference_precision
from lmrc.training.task import to_device

logger = logging.getLogger(__name__)

# File of the triples by the relation head alone, in the run folder.
PREDICTIONS = "predictions.json"
# File of the relation schema in the folder of a model that was trained with one.
RELATION_SCHEMA = "relation_schema.json"

# Columns of `SCHEMA` with counts.
COUNTS = ("pairs", "cut_mentions", "unknown_types", "inadmissible")
_TRIPLE = pa.struct([("head", pa.int32()), ("tail", pa.int32()), ("relation", pa.string()), ("score", pa.float64())])
SCHEMA = pa.schema(
    [
        *CANDIDATES_SCHEMA,
        ("triples", pa.list_(_TRIPLE)),
        *((name, pa.int64()) for name in COUNTS),
    ]
)


class ScoredTriple(NamedTuple):
    """A triple and its probability by the relation head. The fields are those of the column `triples`."""

    head: int
    tail: int
    relation: str
    score: float


@dataclass(frozen=True, slots=True)
class Proposal:
    """Candidates of a document. The fields are columns of `SCHEMA`.

    Attributes:
        candidates: candidates sorted by (h, t).
        triples: triples by the relation head alone, of any pair, sorted by (h, t); empty without a relation head.
        pairs: number of ordered pairs of the document.
        cut_mentions: number of mentions beyond the maximum length.
        unknown_types: number of entities whose type the model does not know.
        inadmissible: number of triples that are left out, because the relation schema does not admit them.
    """

    candidates: list[Candidate]
    triples: list[ScoredTriple]
    pairs: int
    cut_mentions: int
    unknown_types: int
    inadmissible: int


@dataclass(slots=True)
class ProposalStats:
    """Statistics of proposed candidates.

    `labelled_documents`, `kept_labelled`, `gold` and `correct` count documents with labels only. `triples` counts
    those of the relation head, and `inadmissible` those that the relation schema left out; None without one.
    """

    documents: int = 0
    pairs: int = 0
    kept: int = 0
    cut_mentions: int = 0
    unknown_types: int = 0
    labelled_documents: int = 0
    kept_labelled: int = 0
    gold: int = 0
    correct: int = 0
    triples: int | None = None
    inadmissible: int | None = None

    def add(self, document: Document, proposal: Proposal) -> None:
        """Count a document."""
        candidates = proposal.candidates
        self.documents += 1
        self.pairs += proposal.pairs
        self.kept += len(candidates)
        self.cut_mentions += proposal.cut_mentions
        self.unknown_types += proposal.unknown_types
        if self.triples is not None:
            self.triples += len(proposal.triples)
        if self.inadmissible is not None:
            self.inadmissible += proposal.inadmissible
        if document.labels is not None:
            gold = relations_by_pair(document).keys()
            self.labelled_documents += 1
            self.kept_labelled += len(candidates)
            self.gold += len(gold)
            self.correct += sum((candidate.head, candidate.tail) in gold for candidate in candidates)

    def as_json(self) -> dict[str, int | float]:
        """Return the counts and, if there are labels, "precision", "recall" and "f1" in percent."""
        counts: dict[str, int | float] = {
            "documents": self.documents,
            "pairs": self.pairs,
            "kept": self.kept,
            "cut_mentions": self.cut_mentions,
            "unknown_types": self.unknown_types,
        }
        if self.triples is not None:
            counts["triples"] = self.triples
        if self.inadmissible is not None:
            counts["inadmissible"] = self.inadmissible
        if not self.labelled_documents:
            return counts
        return {
            **counts,
            "labelled_documents": self.labelled_documents,
            "gold": self.gold,
            "correct": self.correct,
            "precision": 100.0 * self.correct / self.kept_labelled if self.kept_labelled else 0.0,
            "recall": 100.0 * self.correct / self.gold if self.gold else 0.0,
            "f1": f1_score(self.correct, self.kept_labelled, self.gold),
        }

    def __str__(self) -> str:
        share = 100.0 * self.kept / self.pairs if self.pairs else 0.0
        text = f"{self.kept:,} of {counted(self.pairs, 'pair')} kept ({share:.1f} %) in "
        text += counted(self.documents, "document")
        if self.labelled_documents:
            scores = self.as_json()
            text += f"; precision {scores['precision']:.2f}, recall {scores['recall']:.2f}, F1 {scores['f1']:.2f}"
        if self.cut_mentions:
            text += f"; {counted(self.cut_mentions, 'mention')} beyond the maximum length"
        if self.unknown_types:
            text += f"; {counted(self.unknown_types, 'entity', 'entities')} of unknown types"
        if self.triples is not None:
            text += f"; {counted(self.triples, 'triple')} by the relation head"
        if self.inadmissible:
            text += f"; {self.inadmissible:,} left out, which the relation schema does not admit"
        return text


class PairScores(NamedTuple):
    """Scores of a document's pairs, sorted by (h, t).

    Attributes:
        probabilities: P(relation), [pairs].
        relations: log-odds of each relation, [pairs, relations]; None without a relation head.
    """

    probabilities: NDArray[np.float64]
    relations: NDArray[np.float32] | None


@torch.inference_mode()
def score_pairs(model: RelationCandidateModel, documents: list[EncodedDocument]) -> list[PairScores]:
    """Return the scores of the pairs of each document, in a single forward pass."""
    device = next(model.parameters()).device
    logits, relations = model.split_outputs(model(to_device(model.collate(documents), device)))
    ends = np.cumsum([document.num_pairs for document in documents])[:-1]
    probabilities = np.split(torch.sigmoid(logits.double()).cpu().numpy(), ends)
    if relations is None:
        return [PairScores(scores, None) for scores in probabilities]
    return [PairScores(*scores) for scores in zip(probabilities, np.split(relations.cpu().numpy(), ends), strict=True)]


class Proposer:
    """A trained classifier that proposes candidates."""

    def __init__(
        self,
        folder: Path,
        threshold: float,
        top_k: int | None,
        batch_size: int,
        device: str | None = None,
        relation_threshold: float = 0.5,
        schema: RelationSchema | None = None,
    ) -> None:
        """Load the model, on a GPU if available, in the precision of the training.

        Args:
            folder: folder of the model.
            threshold: minimum P(relation) of a candidate.
            top_k: maximum number of candidates per document, the most probable ones; None for no maximum.
            batch_size: documents per forward pass.
            device: where to load it instead, such as cpu.
            relation_threshold: minimum probability of a triple by the relation head alone.
            schema: relations that the relation head may name; by default those of the schema in the folder, if any.

        Raises:
            UserError: if the model is missing or damaged.
        """
        model, tokenizer = RelationCandidateModel.load(folder)
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._model = model.to(self._device)
        self._precision = inference_precision(model.precision, "RCP")
        self._tokenizer = DocumentTokenizer(tokenizer, model.max_length)
        self._threshold, self._top_k, self._batch_size = threshold, top_k, batch_size
        self._relation_threshold = relation_threshold
        self._schema = saved_schema(folder, model.relations) if schema is None else schema

    @property
    def known_types(self) -> Collection[str]:
        """Return the entity types that the model reads; empty if it reads none."""
        return self._model.features.types or self._model.features.markers

    def fits(self, document: Document) -> bool:
        """Return True if the model reads the whole document."""
        return self._tokenizer.length(document) <= self._tokenizer.max_length

    def propose(self, documents: Sequence[Document]) -> list[Proposal]:
        """Return a proposal per document, in the same order."""
        encoded = self._tokenizer.encode_batch(documents)
        scores: list[PairScores] = []
        for start in range(0, len(encoded), self._batch_size):
            with autocast(self._precision, self._device.type):
                scores += score_pairs(self._model, encoded[start : start + self._batch_size])
        return [self._proposal(*scored) for scored in zip(encoded, scores, strict=True)]

    def _proposal(self, document: EncodedDocument, scores: PairScores) -> Proposal:
        all_triples = self._triples(document, scores)
        triples = all_triples
        if scores.relations is not None and self._schema is not None:
            admissible = self._schema.mask(document.entity_types)
            scores = scores._replace(relations=np.where(admissible, scores.relations, np.float32("-inf")))
            triples = self._triples(document, scores)
        return Proposal(
            self._select(document, scores),
            triples,
            document.num_pairs,
            document.cut_mentions,
            self._model.features.count_unknown_types(document),
            len(all_triples) - len(triples),
        )

    def _select(self, document: EncodedDocument, scores: PairScores) -> list[Candidate]:
        pairs, probabilities = candidate_pairs(document.num_entities), scores.probabilities
        kept = np.flatnonzero(probabilities >= self._threshold)
        if self._top_k is not None:
            # A stable sort, so that the first of equally probable pairs are kept.
            kept = np.sort(kept[np.argsort(-probabilities[kept], kind="stable")[: self._top_k]])
        return [
            Candidate(*pairs[index], float(probabilities[index]), self._relations(scores, int(index))) for index in kept
        ]

    def _relations(self, scores: PairScores, pair: int) -> tuple[RelationLogit, ...]:
        """Return the relations of a pair with log-odds of at least `MIN_LOGIT`."""
        if scores.relations is None:
            return ()
        logits = scores.relations[pair]
        ids = self._model.relations
        return tuple(RelationLogit(ids[index], float(logits[index])) for index in np.flatnonzero(logits >= MIN_LOGIT))

    def _triples(self, document: EncodedDocument, scores: PairScores) -> list[ScoredTriple]:
        if scores.relations is None:
            return []
        pairs, ids = candidate_pairs(document.num_entities), self._model.relations
        probabilities = 1 / (1 + np.exp(-scores.relations.astype(np.float64)))
        return [
            ScoredTriple(head, tail, ids[relation], float(probabilities[pair, relation]))
            # Inadmissible relations have no finite log-odds, and are no triples even at the threshold 0.
            for pair, relation in np.argwhere(
                (probabilities >= self._relation_threshold) & np.isfinite(scores.relations)
            ).tolist()
            for head, tail in [pairs[pair]]
        ]


def saved_schema(folder: Path, relations: Sequence[str]) -> RelationSchema | None:
    """Return the relation schema of a model; None if it has none.

    Args:
        folder: folder of the model.
        relations: ids of the relations of its relation head.

    Raises:
        UserError: if the file is damaged.
    """
    path = folder / RELATION_SCHEMA
    return RelationSchema.read(path, relations) if path.exists() else None


class ProposeInference:
    """Inference job (`lmrc.inference.protocol.Inference`) that proposes the candidates of a corpus."""

    schema = SCHEMA

    def __init__(self, config: ProposeConfig) -> None:
        """Open the corpus and check that the model exists, without loading it.

        Raises:
            UserError: if the corpus is damaged, the model is missing, the schema does not belong to it, or a relation
                threshold is given for a model without a relation head.
        """
        self._config = config
        self._corpus = Corpus.open(config.corpus)
        check_folder(config.rcp)
        self.threshold = find_threshold(config.rcp, config.threshold)
        self._names_relations = predicts_relations(config.rcp)
        if "relation_threshold" in config.model_fields_set and not self._names_relations:
            raise UserError(
                f"--relation-threshold has no effect: {config.rcp} has no relation head; leave it out, or train with "
                "--train.relation-weight 1"
            )
        self._schema = self._choose_schema()
        self._relation_threshold = (
            find_relation_threshold(config.rcp, config.relation_threshold) if self._names_relations else 1.0
        )
        self.documents = len(self._corpus)
        self.identity = work_fingerprint(
            config.rcp,
            SCHEMA,
            corpus=self._corpus.fingerprint,
            threshold=self.threshold,
            top_k=config.top_k,
            batch_size=config.batch_size,
            relation_threshold=self._relation_threshold,
            **({} if self._schema is None else {"relation_schema": self._schema.as_json()}),
        )

    def _choose_schema(self) -> RelationSchema | None:
        """Return the relation schema of the relation head: the given one, or that of the model; None for neither.

        Raises:
            UserError: if a schema cannot be read, or one is given for a model without a relation head.
        """
        given, folder = self._config.schema, self._config.rcp
        relations = predicted_relations(folder)
        if given is None:
            return saved_schema(folder, relations)
        if not self._names_relations:
            raise ConfigError(
                f"--schema says which relations the relation head may name, but {folder} has no relation head: "
                "leave it out, or train with train.relation_weight above 0"
            )
        return RelationSchema.read(given, relations)

    @cached_property
    def _proposer(self) -> Proposer:
        config = self._config
        return Proposer(
            config.rcp,
            self.threshold,
            config.top_k,
            config.batch_size,
            relation_threshold=self._relation_threshold,
            schema=self._schema,
        )

    def load(self) -> None:
        """Load the classifier.

        Raises:
            UserError: if it is missing or damaged.
        """
        _ = self._proposer

    def rows(self, documents: range) -> list[dict[str, Any]]:
        """Return a row of `SCHEMA` per document."""
        chunk = [self._corpus[index] for index in documents]
        return [
            {
                "title": document.title,
                **asdict(proposal),
                "candidates": [candidate.as_row() for candidate in proposal.candidates],
                "triples": [triple._asdict() for triple in proposal.triples],
            }
            for document, proposal in zip(chunk, self._proposer.propose(chunk), strict=True)
        ]

    def finish(self, rows: Iterator[dict[str, Any]]) -> dict[str, int | float]:
        """Write the folder `candidates` of the run, log the statistics and return them.

        With a relation head, also write PREDICTIONS: the triples of the encoder alone.

        Raises:
            UserError: if the folder cannot be written.
        """
        folder: Path = self._config.run.folder / self._config.run.name
        out = folder / "candidates"
        stats = ProposalStats(
            triples=0 if self._names_relations else None, inadmissible=None if self._schema is None else 0
        )

        def candidates(write: Callable[[Iterable[Prediction]], None]) -> Iterator[tuple[str, list[Candidate]]]:
            for document, row in zip(self._corpus, rows, strict=True):
                counts = {name: row[name] for name in COUNTS}
                triples = [ScoredTriple(**triple) for triple in row["triples"]]
                proposal = Proposal([Candidate.of_row(values) for values in row["candidates"]], triples, **counts)
                stats.add(document, proposal)
                write(Prediction(row["title"], *triple) for triple in triples)
                yield row["title"], proposal.candidates

        # An earlier attempt may have written the folder without marking the run as done.
        shutil.rmtree(out, ignore_errors=True)
        with ExitStack() as stack:
            write: Callable[[Iterable[Prediction]], None] = lambda predictions: None  # noqa: E731
            if self._names_relations:
                write = stack.enter_context(predictions_writer(folder / PREDICTIONS))
            write_candidates(
                candidates(write), out, corpus_fingerprint=self._corpus.fingerprint, threshold=self.threshold
            )
        logger.info(f"{out}: {stats}; threshold {self.threshold:.4g}")
        return stats.as_json()
