"""A run that classified: its predictions beside the gold documents, its scores, and what they are about."""

from __future__ import annotations

import logging
from collections.abc import Sequence
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
from lmrc.evaluation.metrics.error_analysis import Analysis, analyse
from lmrc.evaluation.metrics.gold_table import Gold, Source
from lmrc.evaluation.metrics.scores import Counts, Pair, Scores, candidate_scores, score
from lmrc.evaluation.metrics.train_facts import Facts
from lmrc.evaluation.metrics.triple_table import Triples
from lmrc.evaluation.paper_scores import data_set
from lmrc.runs.run_folder import read_config as read_config

PREDICTIONS = "predictions.json"
"""Where a run of classify keeps what it found."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredRun:
    """A run that classified: its predictions beside the gold documents."""

    name: str
    documents: Sequence[Document]
    """Those that were classified: of a run over the first n documents, these."""
    relations: RelationSet
    predictions: Predictions | Sequence[Prediction]
    scores: Scores
    corpus: str = ""
    """Which documents these are: runs with equal ones can be compared."""
    candidates: dict[str, frozenset[Pair]] | None = None
    """The pairs that RCP proposed for each title; None where that is not known any more."""
    threshold: float | None = None
    """Least P(relation) of these pairs."""
    rcp: Path | None = field(default=None, compare=False)
    """The model that proposed them."""
    corpus_name: str = ""
    """What tells the corpus from those of other runs, if the name of its folder does not."""

    @cached_property
    def statistics(self) -> dict[str, int | float]:
        """The figures of table 1 of the documents."""
        return statistics(self.documents)

    @cached_property
    def published(self) -> str | None:
        """The data set of the paper whose figures in table 1 these documents have; None for any other."""
        return data_set(self.statistics)

    @property
    def data(self) -> str:
        """The data set: by the paper's name, or by that of the corpus and its size."""
        name = self.corpus_name or Path(self.corpus).name or "own data"
        return self.published or f"{name}, {len(self.documents):,} documents"

    @cached_property
    def analysis(self) -> Analysis:
        """Where F1 is lost, and the ceilings."""
        system = self.predictions if isinstance(self.predictions, Predictions) else Predictions.of(self.predictions)
        triples = Triples.of(Gold.of(self.documents, self.relations), [system])
        return analyse(triples, 0, None if self.candidates is None else self.candidates.items())

    @cached_property
    def proposed(self) -> Counts | None:
        """The binary scores of RCP."""
        if self.candidates is None:
            return None
        return candidate_scores(self.documents, self.candidates.items())


def read_scored_run(
    folder: Path, facts: Facts | None = None, ign_variant: IgnVariant | None = None
) -> ScoredRun | None:
    """Read the predictions of a classify run and score them; return None for a run that made none.

    Raises RunError if the folder is no run or its config names no corpus, CorpusError if the corpus is gone.
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
    evaluated = ScoredRun(folder.name, documents, corpus.relations, predictions, scores, str(config["corpus"]))
    candidates = _candidates(config, corpus)
    if candidates is None:
        return evaluated
    proposed = {
        document.title: frozenset((candidate.head, candidate.tail) for candidate in candidates[index])
        for index, document in enumerate(documents)
    }
    return replace(evaluated, candidates=proposed, threshold=candidates.threshold, rcp=_rcp(candidates))


def _candidates(config: dict[str, Any], corpus: Corpus) -> Candidates | None:
    """What the run classified; None where it was moved away since."""
    if not config.get("candidates"):
        return None
    try:
        candidates = Candidates.open(config["candidates"])
        candidates.check(corpus)
    except CorpusError as error:
        logger.warning("%s; the report goes without the scores of RCP", error)
        return None
    return candidates


def _rcp(candidates: Candidates) -> Path | None:
    """The model that proposed: the propose run, whose folder holds the candidates, has its name."""
    try:
        rcp = read_config(candidates.folder.parent).get("rcp")
    except RunError:
        return None
    return None if rcp is None else Path(rcp)
