"""Evidence: the log-odds of RCP, its relation head and the LM for each question.

A question is a proposed pair and one of the relations that the relation head finds possible for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmrc.corpus.candidates import Candidate
from lmrc.corpus.relations import RelationSet

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int32]

# Probabilities are clipped to [LEAST, 1 - LEAST], so that their log-odds are finite.
LEAST = 1e-6
# Least probability by the LM. A long name has a tiny one.
LEAST_OF_LM = 1e-30
# Probability of a question without a score, if the LM was asked about all relations: mode score drops those below it.
UNSCORED = 0.01


class Question(NamedTuple):
    """A pair of entities and a relation id, in a document of the corpus."""

    document: int
    head: int
    tail: int
    relation: str


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Columns of all questions, in the order of documents, pairs and relations.

    Attributes:
        relations: relation ids.
        document: index of the document in the corpus, [questions].
        head: index of the head entity, [questions].
        tail: index of the tail entity, [questions].
        relation: index into `relations`, [questions].
        pair: index of the pair among all proposed pairs, ascending, [questions].
        pair_logit: log-odds of P(pair) by RCP, [questions].
        relation_logit: log-odds by the relation head, [questions].
        lm_logit: log-odds by the LM; NaN if it was not asked this question, [questions].
        pairs: number of proposed pairs, including those without a question.
    """

    relations: tuple[str, ...]
    document: Ints
    head: Ints
    tail: Ints
    relation: Ints
    pair: Ints
    pair_logit: Floats
    relation_logit: Floats
    lm_logit: Floats
    pairs: int

    @classmethod
    def of(cls, candidates: Iterable[tuple[int, Sequence[Candidate]]], relations: RelationSet) -> Evidence:
        """Return the evidence of the encoder. The LM is not asked yet.

        Args:
            candidates: index and candidates of each document.
            relations: relation set of the corpus.

        Raises:
            UserError: a relation is not in the set.
        """
        keys: list[tuple[int, int, int, int, int]] = []
        logits: list[tuple[float, float]] = []
        pairs = 0
        for document, proposed in candidates:
            for candidate in proposed:
                for relation, logit in candidate.relations:
                    keys.append((document, candidate.head, candidate.tail, relations.index(relation), pairs))
                    logits.append((candidate.probability, logit))
                pairs += 1
        document_of, head, tail, relation_of, pair = np.array(keys, dtype=np.int32).reshape(-1, 5).T.copy()
        probabilities, relation_logit = np.array(logits, dtype=np.float64).reshape(-1, 2).T.copy()
        return cls(
            relations.ids,
            document_of,
            head,
            tail,
            relation_of,
            pair,
            log_odds(probabilities),
            relation_logit,
            np.full(len(keys), np.nan),
            pairs,
        )

    def with_lm(self, probabilities: Mapping[Question, float], asked: Bools, unscored: float | None) -> Evidence:
        """Return the evidence with the LM's log-odds of the questions about the pairs that it was asked about.

        Args:
            probabilities: the LM's probability of each question.
            asked: True if the LM was asked about the pair, [pairs].
            unscored: probability of a question about an asked pair that has no other; None: it was not asked.
        """
        is_asked = asked[self.pair]
        missing = np.nan if unscored is None else unscored
        scores = [probabilities.get(question, missing) for question in self.questions(is_asked)]
        lm_logit = np.full(len(self), np.nan)
        lm_logit[is_asked] = log_odds(np.array(scores, dtype=np.float64), LEAST_OF_LM)
        return replace(self, lm_logit=lm_logit)

    def __len__(self) -> int:
        return len(self.document)

    def questions(self, selected: Bools | None = None) -> list[Question]:
        """Return the questions; with `selected`, [questions], only those for which it is True."""
        kept = slice(None) if selected is None else selected
        columns = (self.document, self.head, self.tail, self.relation)
        rows = zip(*(column[kept].tolist() for column in columns), strict=True)
        return [Question(document, head, tail, self.relations[relation]) for document, head, tail, relation in rows]

    def part(self, selected: Bools) -> Evidence:
        """Return the questions for which `selected`, [questions], is True. `pair` and `pairs` stay as they are."""
        columns = ("document", "head", "tail", "relation", "pair", "pair_logit", "relation_logit", "lm_logit")
        return replace(self, **{name: getattr(self, name)[selected] for name in columns})


def log_odds(probabilities: Floats, least: float = LEAST) -> Floats:
    """Return the log-odds of probabilities, which are clipped to [least, 1 - LEAST]."""
    clipped = np.clip(probabilities, least, 1.0 - LEAST)
    return np.asarray(np.log(clipped) - np.log1p(-clipped), dtype=np.float64)


def probability(logits: Floats) -> Floats:
    """Return the probabilities of log-odds, without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -logits)), dtype=np.float64)
