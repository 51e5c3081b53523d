"""The systems encoder and fused of classify: one calibrated probability per question, with the LM for a few pairs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmrc.common.atomic_io import write_atomically
from lmrc.common.errors import ConfigError
from lmrc.common.files import sha256_of
from lmrc.config.schema import ClassifyConfig, PromptOptions
from lmrc.corpus.candidates import Candidates
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.types import Triple
from lmrc.fusion.ask import Held, curve
from lmrc.fusion.evidence import UNSCORED, Bools
from lmrc.fusion.inputs import check_relations, encoder_evidence, gold_questions
from lmrc.fusion.model import Asked, Fusion
from lmrc.fusion.reliability import reliability
from lmrc.fusion.scorer import Scorer
from lmrc.rc.prompts.questions import relations_to_ask
from lmrc.rc.prompts.templates import PROMPTS, Pair

# Files of a run whose corpus has labels, for the report.
RELIABILITY = "reliability.json"
CURVE = "fusion-curve.json"


class FusedScores:
    """Probabilities of the questions about candidates.

    Attributes:
        threshold: least probability of a triple.
        identity: everything that the probabilities depend on besides corpus, candidates and LM, as JSON values.
    """

    def __init__(
        self, config: ClassifyConfig, corpus: Corpus, candidates: Candidates | None, prompt: PromptOptions
    ) -> None:
        """Check the options and read the fusion.

        Args:
            prompt: prompt of the LM, if it is asked.

        Raises:
            UserError: an option is missing or does not fit, the candidates have no relations, or the fusion is
                damaged, was fitted with another relation set, or holds no threshold for the precision.
        """
        if candidates is None:
            raise ConfigError(f"system {config.system} scores candidates: give --candidates, which propose writes")
        check_relations(candidates)
        self._corpus, self._candidates = corpus, candidates
        self._fusion = None if config.fusion is None else Fusion.read(config.fusion)
        self._asked: Asked = config.ask if config.system == "fused" else "none"
        if self._fusion is None:
            if config.system == "fused":
                raise ConfigError(
                    "system fused needs the weights of a fusion: give --fusion, the file of lmrc fusion fit"
                )
            self.threshold = config.decode.threshold
        else:
            self.threshold = self._fusion.threshold(self._asked, config.precision)
        if config.system == "fused" and config.asks_lm and config.decode.mode != "score":
            raise ConfigError("system fused needs the LM's probability of each relation: give --decode.mode score")
        self._prompt = prompt
        self._scorer = Scorer(self._fusion, self._asked, corpus.relations, unscored(prompt))
        self.identity = {
            "system": config.system,
            "fusion": None if config.fusion is None else sha256_of(config.fusion),
            "asked": self._asked,
            "threshold": self.threshold,
        }

    def pairs(self, document: int) -> list[Pair]:
        """Return the pairs of a document that the LM is asked about, in the order of the candidates."""
        return [] if self._asked == "none" else self._scorer.pairs(self._candidates[document])

    def triples(self, document: int, answers: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return all questions of a document as triples with their probabilities.

        Args:
            answers: triples with the LM's scores; those that are no question are ignored.
        """
        scores = {Triple(answer["head"], answer["tail"], answer["relation"]): answer["score"] for answer in answers}
        scored = self._scorer.triples(self._candidates[document], scores)
        return [{**triple._asdict(), "score": score} for triple, score in scored]

    def proposed(self, documents: int) -> int:
        """Return the number of candidates of the first documents."""
        if documents == len(self._candidates):
            return self._candidates.manifest.candidates
        return sum(len(self._candidates[index]) for index in range(documents))

    def write_curves(self, probabilities: Sequence[float], documents: int, folder: Path) -> None:
        """Write RELIABILITY, and CURVE if the LM was asked. The first `documents` of the corpus have labels.

        Args:
            probabilities: probability of each question about these documents, in order.
        """
        evidence = encoder_evidence(self._candidates, self._corpus, documents)
        gold = gold_questions(self._corpus, documents)
        with_lm = np.array(probabilities, dtype=np.float64)
        correct = np.array([question in gold for question in evidence.questions()], dtype=np.bool_)
        found = reliability(with_lm, correct)
        content: dict[str, Any] = {"ece": found.ece, "bins": [one._asdict() for one in found.bins]}
        write_atomically(folder / RELIABILITY, json.dumps(content) + "\n")
        if self._fusion is None or self._asked == "none":
            return
        without_lm = self._scorer.without_lm(evidence)
        held = Held(evidence, with_lm, without_lm, correct, self._asks(documents), len(gold), self.threshold)
        band = self._fusion.band if self._asked == "band" else (0.0, 1.0)
        points = [point._asdict() for point in curve(held, band, self._fusion.threshold("all"))]
        content = {"tokens_per_question": self._fusion.tokens_per_question, "curve": points}
        write_atomically(folder / CURVE, json.dumps(content) + "\n")

    def _asks(self, documents: int) -> Bools:
        """Return True for each question that the LM is asked if it is asked about its pair, [questions]."""
        asks = []
        for index in range(documents):
            for candidate in self._candidates[index]:
                named = [relation for relation, _ in candidate.relations]
                asked = relations_to_ask(candidate, self._prompt) if _asks_relations(self._prompt) else named
                asks += [relation in asked for relation in named]
        return np.array(asks, dtype=np.bool_)


def _asks_relations(prompt: PromptOptions) -> bool:
    return PROMPTS[prompt.kind].asks_relations


def unscored(prompt: PromptOptions) -> float | None:
    """Return the LM's probability of a question about an asked pair without a score; None: it was not asked."""
    return None if _asks_relations(prompt) else UNSCORED
