"""Statistics of a corpus: sizes, candidate space (table 1 of the paper), triples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from lmrc.corpus.docred import relations_by_pair
from lmrc.corpus.types import Document


@dataclass
class CorpusCounts:
    """Running totals over documents. `per_relation` maps relation ids to numbers of triples."""

    documents: int = 0
    labelled_documents: int = 0
    sentences: int = 0
    words: int = 0
    entities: int = 0
    mentions: int = 0
    candidate_pairs: int = 0
    na_pairs: int = 0
    relation_pairs: int = 0
    triples: int = 0
    intra_triples: int = 0
    duplicate_labels: int = 0
    per_relation: Counter[str] = field(default_factory=Counter)

    def add(self, document: Document) -> None:
        """Add one document. NA pairs and relation pairs are counted only if it has labels."""
        pairs = len(document.entities) * (len(document.entities) - 1)
        self.documents += 1
        self.sentences += len(document.sentences)
        self.words += sum(len(sentence) for sentence in document.sentences)
        self.entities += len(document.entities)
        self.mentions += sum(len(entity) for entity in document.entities)
        self.candidate_pairs += pairs
        if document.labels is None:
            return
        gold = relations_by_pair(document)
        sentences = [{mention.sentence for mention in entity} for entity in document.entities]
        self.labelled_documents += 1
        self.na_pairs += pairs - len(gold)
        self.relation_pairs += len(gold)
        self.duplicate_labels += document.duplicate_labels
        for (head, tail), relations in gold.items():
            self.triples += len(relations)
            if not sentences[head].isdisjoint(sentences[tail]):
                self.intra_triples += len(relations)
            self.per_relation.update(relations)

    def summary(self) -> dict[str, int | float]:
        """Return all statistics by name.

        Means are per document; `mean_triples` and `relation_pair_share` are over labeled documents only. A triple is
        intra-sentence if a mention of its head and a mention of its tail share a sentence; otherwise it is inter.
        """

        def ratio(part: int, whole: int) -> float:
            return part / whole if whole else 0.0

        return {
            "documents": self.documents,
            "labelled_documents": self.labelled_documents,
            "candidate_pairs": self.candidate_pairs,
            "na_pairs": self.na_pairs,
            "relation_pairs": self.relation_pairs,
            "triples": self.triples,
            "intra_triples": self.intra_triples,
            "inter_triples": self.triples - self.intra_triples,
            "relations": len(self.per_relation),
            "duplicate_labels": self.duplicate_labels,
            "entities": self.entities,
            "mentions": self.mentions,
            "sentences": self.sentences,
            "words": self.words,
            "relation_pair_share": ratio(self.relation_pairs, self.relation_pairs + self.na_pairs),
            "mentions_per_entity": ratio(self.mentions, self.entities),
            "mean_candidate_pairs": ratio(self.candidate_pairs, self.documents),
            "mean_triples": ratio(self.triples, self.labelled_documents),
            "mean_entities": ratio(self.entities, self.documents),
            "mean_sentences": ratio(self.sentences, self.documents),
            "mean_words": ratio(self.words, self.documents),
        }


def count(documents: Iterable[Document]) -> CorpusCounts:
    """Count documents in one pass."""
    counts = CorpusCounts()
    for document in documents:
        counts.add(document)
    return counts


def statistics(corpus: Iterable[Document]) -> dict[str, int | float]:
    """Return `CorpusCounts.summary` of a corpus, in one pass."""
    return count(corpus).summary()
