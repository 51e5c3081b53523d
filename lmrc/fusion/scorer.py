"""Questions of one document: the pairs that the LM is asked about, and the probability of each question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lmrc.corpus.candidates import Candidate
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Triple
from lmrc.fusion.evidence import Bools, Evidence, Floats, Question, probability
from lmrc.fusion.model import Asked, EncoderWeights, Fusion

# The relation head's own log-odds, if there is no fusion.
RELATION_HEAD = EncoderWeights(bias=0.0, pair=0.0, relation=1.0)


class Scorer:
    """Scores the candidates of a document. Without a fusion, by the relation head alone."""

    def __init__(
        self, fusion: Fusion | None, asked: Asked, relations: RelationSet, unscored: float | None = None
    ) -> None:
        """Keep the arguments.

        Args:
            asked: the pairs that the LM is asked about; only with a fusion.
            relations: relation set of the documents.
            unscored: the LM's probability of a question about an asked pair without a score; None: it was not asked.

        Raises:
            UserError: the fusion was fitted with another relation set.
        """
        if fusion is not None:
            fusion.check_relations(relations)
        self._fusion, self._asked, self._relations, self._unscored = fusion, asked, relations, unscored

    def pairs(self, candidates: Sequence[Candidate]) -> list[tuple[int, int]]:
        """Return the pairs that the LM is asked about, in the order of the candidates."""
        asked = self._are_asked(self._evidence(candidates))
        return [(pair.head, pair.tail) for pair, is_asked in zip(candidates, asked.tolist(), strict=True) if is_asked]

    def triples(self, candidates: Sequence[Candidate], answers: Mapping[Triple, float]) -> list[tuple[Triple, float]]:
        """Return all questions as triples with their probabilities, in the order of the candidates.

        Args:
            answers: the LM's probability of each triple; those that are no question are ignored.
        """
        evidence = self._evidence(candidates)
        if self._fusion is None:
            scores = self.without_lm(evidence)
        else:
            lm = {Question(0, *triple): score for triple, score in answers.items()}
            scores = self._fusion.probabilities(evidence.with_lm(lm, self._are_asked(evidence), self._unscored))
        triples = (Triple(*question[1:]) for question in evidence.questions())
        return list(zip(triples, scores.tolist(), strict=True))

    def without_lm(self, evidence: Evidence) -> Floats:
        """Return the probability of each question without the LM, [questions]."""
        weights = RELATION_HEAD if self._fusion is None else self._fusion.without_lm
        return probability(weights.log_odds(evidence))

    def _evidence(self, candidates: Sequence[Candidate]) -> Evidence:
        return Evidence.of([(0, candidates)], self._relations)

    def _are_asked(self, evidence: Evidence) -> Bools:
        """Return True for each pair that the LM is asked about, [pairs]. A pair without a question never is."""
        if self._fusion is None or self._asked == "none":
            return np.zeros(evidence.pairs, dtype=np.bool_)
        if self._asked == "band":
            return self._fusion.in_band(evidence)
        return np.bincount(evidence.pair, minlength=evidence.pairs) > 0
