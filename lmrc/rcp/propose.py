"""Candidates of a corpus: the pairs whose P(relation) reaches a threshold."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from lmrc.config import ProposeConfig
from lmrc.corpus.arrow import Corpus
from lmrc.corpus.candidates import Candidate, write_candidates
from lmrc.corpus.docred import Document, candidate_pairs, relations_by_pair
from lmrc.rcp.batching import to_device
from lmrc.rcp.markers import EncodedDocument, Encoder
from lmrc.rcp.measure import f1_score
from lmrc.rcp.model import RelationCandidateModel

# Batches of documents of like length are made among this many batches' documents.
BATCHES_SORTED = 16


@dataclass(slots=True)
class Proposed:
    """What was proposed. `gold`, `kept_labelled` and `correct` count the pairs of documents with labels only."""

    documents: int = 0
    pairs: int = 0
    kept: int = 0
    cut_mentions: int = 0
    labelled_documents: int = 0
    kept_labelled: int = 0
    gold: int = 0
    correct: int = 0

    def count(self, document: Document, encoded: EncodedDocument, candidates: list[Candidate]) -> None:
        """Add a document."""
        self.documents += 1
        self.pairs += encoded.pairs
        self.kept += len(candidates)
        self.cut_mentions += encoded.cut
        if document.labels is not None:
            gold = relations_by_pair(document).keys()
            self.labelled_documents += 1
            self.kept_labelled += len(candidates)
            self.gold += len(gold)
            self.correct += sum((candidate.head, candidate.tail) in gold for candidate in candidates)

    def as_json(self) -> dict[str, int | float]:
        """Counts, and where there are labels `precision`, `recall` and `f1` in percent."""
        counts: dict[str, int | float] = {
            "documents": self.documents,
            "pairs": self.pairs,
            "kept": self.kept,
            "cut_mentions": self.cut_mentions,
        }
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
        text = f"{self.kept} of {self.pairs} pairs kept ({share:.1f} %) in {self.documents} documents"
        if self.labelled_documents:
            scores = self.as_json()
            text += f"; precision {scores['precision']:.2f}, recall {scores['recall']:.2f}, F1 {scores['f1']:.2f}"
        return f"{text}; {self.cut_mentions} mentions beyond the longest length"


@torch.inference_mode()
def probabilities(model: RelationCandidateModel, documents: list[EncodedDocument]) -> list[NDArray[np.float64]]:
    """P(relation) of the ordered pairs of each document, [pairs] sorted by (h, t), in one forward pass."""
    device = next(model.parameters()).device
    logits = model(to_device(model.collate(documents), device))
    scores = torch.sigmoid(logits.double()).cpu().numpy()
    return np.split(scores, np.cumsum([document.pairs for document in documents])[:-1])


def proposals(
    model: RelationCandidateModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[Document],
    threshold: float,
    batch_size: int,
    proposed: Proposed,
) -> Iterator[tuple[str, list[Candidate]]]:
    """For each document in turn its title and the pairs with P(relation) >= threshold, sorted by (h, t).

    `proposed` is counted up on the way. Documents are drawn some batches ahead, so that those of like length share one.
    """
    encoder = Encoder(tokenizer, model.max_length)
    stream = iter(documents)
    while chunk := list(islice(stream, BATCHES_SORTED * batch_size)):
        encoded = [encoder.encode(document) for document in chunk]
        by_length = sorted(range(len(chunk)), key=lambda index: len(encoded[index].input_ids))
        scores: dict[int, NDArray[np.float64]] = {}
        for start in range(0, len(chunk), batch_size):
            batch = by_length[start : start + batch_size]
            scores.update(zip(batch, probabilities(model, [encoded[index] for index in batch]), strict=True))
        for index, document in enumerate(chunk):
            pairs = candidate_pairs(len(document.entities))
            kept = np.flatnonzero(scores[index] >= threshold)
            candidates = [Candidate(*pairs[number], float(scores[index][number])) for number in kept]
            proposed.count(document, encoded[index], candidates)
            yield document.title, candidates


def run(config: ProposeConfig) -> Proposed:
    """Write the candidates of `config.corpus` to the folder `candidates` of the run, on a GPU where there is one.

    Raises UserError where the model, the corpus or the output folder is not as it should be.
    """
    corpus = Corpus.open(config.corpus)
    model, tokenizer = RelationCandidateModel.load(config.rcp)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    proposed = Proposed()
    out: Path = config.run.folder / config.run.name / "candidates"
    # Left by a start that ended before it was marked as done: made again, the same.
    shutil.rmtree(out, ignore_errors=True)
    write_candidates(
        proposals(model, tokenizer, corpus, config.threshold, config.batch_size, proposed),
        out,
        corpus_fingerprint=corpus.fingerprint,
        threshold=config.threshold,
    )
    print(f"{out}: {proposed}", flush=True)
    return proposed
