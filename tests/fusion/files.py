"""Synthetic questions as files: a corpus, candidates, and a finished run of classify."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

from lmrc.corpus.candidates import Candidate, Candidates, RelationLogit, write_candidates
from lmrc.corpus.corpus import Corpus, write_corpus
from lmrc.corpus.predictions import Prediction, write_predictions
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document, Label, Mention
from lmrc.fusion.evidence import probability
from lmrc.fusion.fit import Labeled
from tests.fusion.examples import RELATIONS

RELATION_SET = RelationSet(RELATIONS, tuple(f"relation {id}" for id in RELATIONS))
ENTITIES = 8


def documents_of(labeled: Labeled) -> list[Document]:
    """Return documents with the correct questions as labels, and one label of a pair that is not proposed."""
    labels: dict[int, list[Label]] = defaultdict(lambda: [Label(7, 0, RELATIONS[0])])
    for question, correct in zip(labeled.evidence.questions(), labeled.correct.tolist(), strict=True):
        if correct:
            labels[question.document].append(Label(*question[1:]))
    entities = tuple((Mention(f"e{number}", 0, 0, 1, "PER"),) for number in range(ENTITIES))
    return [
        Document(f"document {index}", (("Ada", "."),), entities, tuple(labels[index]))
        for index in range(labeled.documents)
    ]


def candidates_of(labeled: Labeled) -> list[list[Candidate]]:
    """Return the candidates of each document."""
    evidence = labeled.evidence
    relations: dict[tuple[int, int, int], list[RelationLogit]] = defaultdict(list)
    probabilities = {}
    for question, pair, logit in zip(
        evidence.questions(), probability(evidence.pair_logit).tolist(), evidence.relation_logit.tolist(), strict=True
    ):
        relations[question[:3]].append(RelationLogit(question.relation, logit))
        probabilities[question[:3]] = pair
    rows: list[list[Candidate]] = [[] for _ in range(labeled.documents)]
    for (document, head, tail), found in relations.items():
        rows[document].append(Candidate(head, tail, probabilities[document, head, tail], tuple(found)))
    return rows


def write_inputs(labeled: Labeled, home: Path) -> tuple[Corpus, Candidates, Path]:
    """Write corpus, candidates and a run with all scores of the LM, and return them."""
    documents = documents_of(labeled)
    write_corpus(documents, home / "corpus", RELATION_SET, "synthetic", "0" * 64, 16)
    corpus = Corpus.open(home / "corpus")
    rows = zip([document.title for document in documents], candidates_of(labeled), strict=True)
    write_candidates(rows, home / "candidates", corpus.fingerprint, 0.1)
    run = home / "answers"
    run.mkdir()
    write_run(run, corpus=str(corpus.folder), candidates=str(home / "candidates"), system="rc")
    scores = [
        Prediction(documents[question.document].title, *question[1:], score=score)
        for question, score in zip(
            labeled.evidence.questions(), probability(labeled.evidence.lm_logit).tolist(), strict=True
        )
    ]
    write_predictions(scores, run / "scores-of-all.json")
    write_generations(run, candidates_of(labeled))
    return corpus, Candidates.open(home / "candidates"), run


def write_generations(run: Path, candidates: list[list[Candidate]]) -> None:
    """Write which pairs the LM was asked about: all candidates."""
    with (run / "generations.jsonl").open("w") as file:
        for document, pairs in enumerate(candidates):
            asked = [[pair.head, pair.tail] for pair in pairs]
            # Two queries, if there are two pairs.
            for part in filter(None, (asked[:1], asked[1:])):
                file.write(json.dumps({"document": document, "pairs": part}) + "\n")


def write_run(run: Path, **config: Any) -> None:
    """Write the options of a finished run."""
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "DONE").write_text(json.dumps({}))
