"""Inputs of a fit: candidates, the LM's scores of all questions about them, and the labels of their corpus."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from lmrc.common.errors import UserError
from lmrc.corpus.candidates import Candidates
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.predictions import Predictions
from lmrc.fusion.evidence import Evidence, Question
from lmrc.fusion.fit import FOLDS, Labeled

# A fit on fewer documents, or with fewer correct questions, would be noise.
MIN_DOCUMENTS = 4 * FOLDS
MIN_POSITIVES = 50
# File of a run of classify with the scores of all questions.
SCORES = "scores-of-all.json"

logger = logging.getLogger(__name__)


def encoder_evidence(candidates: Candidates, corpus: Corpus, documents: int) -> Evidence:
    """Return the evidence of the encoder for the first documents of a corpus.

    Raises:
        UserError: the candidates have no relations.
    """
    check_relations(candidates)
    return Evidence.of(((index, candidates[index]) for index in range(documents)), corpus.relations)


def check_relations(candidates: Candidates) -> None:
    """Check that the candidates have the log-odds of relations.

    Raises:
        UserError: none of them has any.
    """
    if candidates.manifest.candidates and not any(pair.relations for pairs in candidates for pair in pairs):
        raise UserError(
            f"{candidates.folder}: the candidates have no relations: propose them with an RCP model that was trained "
            "with --train.relation-weight 1 (any weight above 0); if it was, it finds none in these documents: its "
            "relation head is untrained, or --schema leaves none"
        )


def read_labeled(
    candidates: Candidates, scores: Path, corpus: Corpus, documents: int, unscored: float | None = None
) -> Labeled:
    """Return the questions about the first documents of a corpus, with the LM's scores and the gold answers.

    Args:
        scores: file of the LM's scores; the LM was asked about all candidates.
        unscored: probability of a question without a score; None: the LM was not asked this question.

    Raises:
        UserError: a document has no labels, the scores are not those of the candidates, or there are too few documents
            or correct questions.
    """
    gold = gold_questions(corpus, documents)
    evidence = encoder_evidence(candidates, corpus, documents)
    if not len(evidence):
        raise UserError(f"{candidates.folder}: there is no candidate in the first {documents:,} documents")
    questions = evidence.questions()
    probabilities = read_scores(scores, candidates, documents)
    _check_pairs(probabilities, candidates, documents, scores)
    without = sum(question not in probabilities for question in questions)
    if without:
        meaning = "the LM was not asked them" if unscored is None else f"they count as {unscored:g}"
        logger.info(f"{scores}: {without:,} of {len(questions):,} questions have no score: {meaning}")
    correct = np.array([question in gold for question in questions], dtype=np.bool_)
    if documents < MIN_DOCUMENTS:
        raise UserError(f"{documents} documents are too few to fit a fusion: give at least {MIN_DOCUMENTS}")
    evidence = evidence.with_lm(probabilities, np.ones(evidence.pairs, dtype=np.bool_), unscored)
    positives = sum(question in gold for question in probabilities.keys() & set(questions))
    if positives < MIN_POSITIVES:
        raise UserError(
            f"only {positives} questions that the LM gave a score are correct triples, too few to fit a fusion: give "
            f"more documents or candidates, so that at least {MIN_POSITIVES} are correct"
        )
    return Labeled(evidence, correct, documents, len(gold))


def gold_questions(corpus: Corpus, documents: int) -> set[Question]:
    """Return the gold triples of the first documents.

    Raises:
        UserError: one of them has no labels.
    """
    gold = set()
    for index in range(documents):
        labels = corpus.labels(index)
        if labels is None:
            raise UserError(
                f"{corpus.folder}: document {index} has no labels; fit the fusion on labeled documents that neither "
                "model was trained on"
            )
        gold |= {Question(index, label.head, label.tail, label.relation) for label in labels}
    return gold


def read_scores(path: Path, candidates: Candidates, documents: int) -> dict[Question, float]:
    """Return the LM's scores.

    Raises:
        UserError: a title is unknown, or a triple has no score or one that is no probability.
    """
    numbers = {candidates.title(index): index for index in range(documents)}
    scores = {}
    for found in Predictions.read(path):
        if found.title not in numbers:
            raise UserError(f"{path}: {found.title!r} is no document of {candidates.folder}; give the run over them")
        if found.score is None or not 0.0 <= found.score <= 1.0:
            raise UserError(f"{path}: {found} has the score {found.score}, expected a probability")
        scores[Question(numbers[found.title], found.head, found.tail, found.relation)] = found.score
    return scores


def _check_pairs(scores: dict[Question, float], candidates: Candidates, documents: int, path: Path) -> None:
    """Check that the LM was asked about these candidates.

    Raises:
        UserError: it scored a pair that is no candidate.
    """
    pairs = {(index, pair.head, pair.tail) for index in range(documents) for pair in candidates[index]}
    other = next((question for question in scores if question[:3] not in pairs), None)
    if other is not None:
        raise UserError(
            f"{path}: scores the pair ({other.head}, {other.tail}) of {candidates.title(other.document)!r}, which is "
            f"not in {candidates.folder}: give the candidates that the run classified"
        )
