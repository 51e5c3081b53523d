"""A run with predictions, of classify or of propose, with its gold documents, scores and candidates."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lmrc.common.errors import CorpusError, RunError
from lmrc.config.schema import IgnVariant
from lmrc.corpus.candidates import Candidates
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.predictions import Prediction, Predictions
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.statistics import statistics
from lmrc.corpus.types import Document
from lmrc.evaluation.metrics.error_analysis import Analysis, analyze
from lmrc.evaluation.metrics.gold_table import Gold, Source
from lmrc.evaluation.metrics.scores import Counts, Pair, Scores, score
from lmrc.evaluation.metrics.train_facts import Facts
from lmrc.evaluation.metrics.triple_table import Triples
from lmrc.evaluation.paper_scores import data_set_by_statistics
from lmrc.runs.run_folder import read_config
from lmrc.runs.run_kinds import run_kind

# The file of predictions in a run of classify, and in one of propose whose model has a relation head.
PREDICTIONS = "predictions.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredRun:
    """A run with its scores.

    Attributes:
        name: name in tables.
        documents: the gold documents that the run classified.
        corpus: corpus folder; runs with the same folder can be compared.
        candidates: pairs that RCP proposed, by title; None if not known, or if the run names relations of any pair.
        threshold: least P(relation) of the candidates.
        rcp: folder of the RCP model that proposed the candidates, or predicted the triples.
        corpus_name: name that distinguishes the corpus from those of other runs; by default the folder's name.
    """

    name: str
    documents: Sequence[Document]
    relations: RelationSet
    predictions: Predictions | Sequence[Prediction]
    scores: Scores
    corpus: str = ""
    candidates: dict[str, frozenset[Pair]] | None = None
    threshold: float | None = None
    rcp: Path | None = field(default=None, compare=False)
    corpus_name: str = ""

    @cached_property
    def statistics(self) -> dict[str, int | float]:
        """Return the statistics of table 1 of the paper."""
        return statistics(self.documents)

    @cached_property
    def published(self) -> str | None:
        """Return the data set of the paper with the same statistics; None for any other documents."""
        return data_set_by_statistics(self.statistics)

    @property
    def data(self) -> str:
        """Return the name of the data set in the paper, or the name of the corpus with its size."""
        name = self.corpus_name or Path(self.corpus).name or "own data"
        return self.published or f"{name}, {len(self.documents):,} documents"

    @cached_property
    def analysis(self) -> Analysis:
        system = self.predictions if isinstance(self.predictions, Predictions) else Predictions.of(self.predictions)
        triples = Triples.of(Gold.of(self.documents, self.relations), [system])
        return analyze(triples, 0, None if self.candidates is None else self.candidates.items())

    @property
    def proposed(self) -> Counts | None:
        """Return the binary counts of RCP; None without candidates."""
        return self.analysis.proposed


def is_encoder_alone(config: Mapping[str, Any]) -> bool:
    """Return True if a config is one of propose, whose predictions are those of the relation head."""
    kind = run_kind(config)
    return kind is not None and kind.name == "propose"


def name_in_tables(name: str, config: Mapping[str, Any]) -> str:
    """Return `name`, followed by "encoder alone" if the run with this config is one of propose."""
    return f"{name} (encoder alone)" if is_encoder_alone(config) else name


def read_scored_run(
    folder: Path, facts: Facts | None = None, ign_variant: IgnVariant | None = None
) -> ScoredRun | None:
    """Read and score the predictions of a run; return None for a run without predictions.

    Raises:
        RunError: the folder is no run, or its config names no corpus.
        CorpusError: the corpus does not exist.
    """
    config = read_config(folder)
    if not (folder / PREDICTIONS).exists():
        return None
    if not config.get("corpus"):
        raise RunError(
            f"{folder} has predictions, but its config.yaml names no corpus: score them with lmrc score --gold"
        )
    corpus = Corpus.open(config["corpus"])
    predictions = Predictions.read(folder / PREDICTIONS)
    documents = [corpus[index] for index in range(min(config.get("documents") or len(corpus), len(corpus)))]
    source = Source(corpus.manifest.source, corpus.manifest.source_sha256)
    gold = replace(Gold.of(documents, corpus.relations), source=source)
    scores = score(gold, predictions, corpus.relations, facts, ign_variant)
    name = name_in_tables(folder.name, config)
    run = ScoredRun(name, documents, corpus.relations, predictions, scores, str(config["corpus"]))
    if is_encoder_alone(config):
        return replace(run, rcp=Path(config["rcp"]))
    candidates = _open_candidates(config, corpus)
    if candidates is None:
        return run
    pairs_by_title = {
        document.title: frozenset((candidate.head, candidate.tail) for candidate in candidates[index])
        for index, document in enumerate(documents)
    }
    return replace(run, candidates=pairs_by_title, threshold=candidates.threshold, rcp=_rcp_folder(candidates))


def _open_candidates(config: dict[str, Any], corpus: Corpus) -> Candidates | None:
    """Return the candidates that the run classified; None if they were moved or do not fit the corpus."""
    if not config.get("candidates"):
        return None
    try:
        candidates = Candidates.open(config["candidates"])
        candidates.check(corpus)
    except CorpusError as error:
        logger.warning("%s; the report omits the scores of RCP", error)
        return None
    return candidates


def _rcp_folder(candidates: Candidates) -> Path | None:
    """Return the RCP model from the config of the run of propose, whose folder contains the candidates."""
    try:
        rcp = read_config(candidates.folder.parent).get("rcp")
    except RunError:
        return None
    return None if rcp is None else Path(rcp)
