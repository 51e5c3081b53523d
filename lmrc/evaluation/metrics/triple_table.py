"""All gold and predicted triples as columns, each triple once. Every score is a count over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lmrc.corpus.predictions import Predictions
from lmrc.evaluation.metrics.gold_table import Gold, Indices, Ints
from lmrc.evaluation.metrics.train_facts import Facts

Flags = npt.NDArray[np.bool_]

# Most mention pairs that are compared at once, to bound the memory.
MENTION_PAIRS = 1 << 22


def distinct(*columns: Ints) -> tuple[Indices, Indices]:
    """Return the index of one row per distinct row, sorted by the columns, and the distinct row of each `[rows]`."""
    order = np.lexsort(columns[::-1])
    new = np.ones(len(order), dtype=np.bool_)
    if len(order):
        new[1:] = False
    for column in columns:
        values = column[order]
        new[1:] |= values[1:] != values[:-1]
    inverse = np.empty(len(order), dtype=np.int64)
    inverse[order] = np.cumsum(new) - 1
    return order[new], inverse


@dataclass(frozen=True, eq=False)
class Triples:
    """All triples that are gold or predicted by a system, sorted by (document, head, tail, relation).

    A system is a set of predictions for the same gold documents, such as another run or another seed.

    Attributes:
        documents: the gold documents.
        titles: titles of the gold documents, then titles that occur only in predictions.
        relations: ids of the relation set, then ids that occur only in predictions.
        document: `[triples]` indices into `titles`.
        head: `[triples]` entity index.
        tail: `[triples]` entity index.
        relation: `[triples]` indices into `relations`.
        gold: `[triples]`.
        predicted: `[systems, triples]`.
        duplicates: `[systems]` number of repeated predictions.
        gold_evidence: unique keys (triple << 32) + sentence, sorted.
        predicted_evidence: `[systems]` such keys; None if no prediction has evidence.
    """

    documents: Gold
    titles: tuple[str, ...]
    relations: tuple[str, ...]
    document: Ints
    head: Ints
    tail: Ints
    relation: Ints
    gold: Flags
    predicted: Flags
    duplicates: tuple[int, ...]
    gold_evidence: Indices
    predicted_evidence: tuple[Indices | None, ...]

    @classmethod
    def of(cls, gold: Gold, systems: Sequence[Predictions]) -> Triples:
        """Merge gold and predicted triples. The order and repetition of predictions do not change the result."""
        title_index = {title: index for index, title in enumerate(gold.titles)}
        relation_index = {relation: index for index, relation in enumerate(gold.relations.ids)}
        # Names that occur only in predictions are sorted, so that the order of the systems does not matter.
        predicted_names = ((title_index, [s.titles for s in systems]), (relation_index, [s.relations for s in systems]))
        for index, names_by_system in predicted_names:
            for name in sorted({name for names in names_by_system for name in names} - index.keys()):
                index[name] = len(index)
        columns = [(gold.document, gold.head, gold.tail, gold.relation)]
        for system in systems:
            to_document = np.array([title_index[title] for title in system.titles], dtype=np.int32)
            to_relation = np.array([relation_index[relation] for relation in system.relations], dtype=np.int32)
            columns.append((to_document[system.document], system.head, system.tail, to_relation[system.relation]))
        document, head, tail, relation = (np.concatenate(parts) for parts in zip(*columns, strict=True))
        first, inverse = distinct(document, head, tail, relation)
        ends = np.cumsum([len(part[0]) for part in columns])
        parts = np.split(inverse, ends[:-1])
        present = np.zeros((len(columns), len(first)), dtype=np.bool_)
        for row, part in zip(present, parts, strict=True):
            row[part] = True
        return cls(
            documents=gold,
            titles=tuple(title_index),
            relations=tuple(relation_index),
            document=document[first],
            head=head[first],
            tail=tail[first],
            relation=relation[first],
            gold=present[0],
            predicted=present[1:],
            duplicates=tuple(len(part) - int(row.sum()) for part, row in zip(parts[1:], present[1:], strict=True)),
            gold_evidence=_evidence_keys(parts[0], gold.evidence_of, gold.evidence),
            predicted_evidence=tuple(
                _evidence_keys(part, system.evidence_of, system.evidence) if system.has_evidence.any() else None
                for part, system in zip(parts[1:], systems, strict=True)
            ),
        )

    def __len__(self) -> int:
        return len(self.document)

    @cached_property
    def entities_exist(self) -> Flags:
        """Return whether the gold document and both entities exist, `[triples]`."""
        known = self.document < len(self.documents)
        entities = np.zeros(len(self), dtype=np.int32)
        entities[known] = self.documents.entities[self.document[known]]
        exist: Flags = (self.head >= 0) & (self.head < entities) & (self.tail >= 0) & (self.tail < entities)
        return exist

    @cached_property
    def pair(self) -> Indices:
        """Return the index of the (document, head, tail) of each triple, `[triples]`, ascending from 0."""
        new = np.zeros(len(self), dtype=np.bool_)
        for column in (self.document, self.head, self.tail):
            new[1:] |= column[1:] != column[:-1]
        return np.cumsum(new)

    @cached_property
    def distance(self) -> Ints:
        """Return the sentences between the nearest mentions of head and tail, `[triples]`.

        0 means the same sentence (intra); -1 means that the document or an entity does not exist.
        """
        first = np.flatnonzero(np.diff(self.pair, prepend=-1))
        existing = np.flatnonzero(self.entities_exist[first])
        by_pair = np.full(len(first), -1, dtype=np.int32)
        sentence = self.documents.mention_sentence
        for rows, starts, head, tail in self._mention_pairs(first[existing]):
            by_pair[existing[rows]] = np.minimum.reduceat(np.abs(sentence[head] - sentence[tail]), starts)
        return by_pair[self.pair]

    def mentions(self, entity: Ints) -> Ints:
        """Return the number of mentions of `entity` (`head` or `tail`), `[triples]`; 0 if it does not exist."""
        counts = np.zeros(len(self), dtype=np.int32)
        exist = self.entities_exist
        counts[exist] = self.documents.mentions[self.documents.first_entity[self.document[exist]] + entity[exist]]
        return counts

    def in_training(self, facts: Facts) -> Flags:
        """Return the gold triples that are facts, `[triples]`: any name of the head with any name of the tail."""
        name_index = {name: index for index, name in enumerate(self.documents.names)}
        relations = self.documents.relations

        def key(head: Any, tail: Any, relation: Any) -> Any:
            return (head * len(name_index) + tail) * len(relations) + relation

        # Facts with names that no gold document has cannot match.
        matching = [
            key(name_index[head], name_index[tail], relations.index(relation))
            for head, tail, relation in facts.triples
            if head in name_index and tail in name_index and relation in relations
        ]
        fact_keys = np.sort(np.array(matching, dtype=np.int64))
        is_fact = np.zeros(len(self), dtype=np.bool_)
        gold = np.flatnonzero(self.gold)
        for rows, starts, head, tail in self._mention_pairs(gold):
            names = self.documents.mention_name.astype(np.int64)
            relation = np.repeat(self.relation[gold[rows]], np.diff(starts, append=len(head)))
            matches = np.isin(key(names[head], names[tail], relation), fact_keys)
            is_fact[gold[rows]] = np.logical_or.reduceat(matches, starts)
        return is_fact

    def _mention_pairs(self, triples: Indices) -> Iterator[tuple[slice, Indices, Indices, Indices]]:
        """Yield all pairs of a head mention and a tail mention, in blocks of triples.

        Args:
            triples: indices of triples whose entities exist.

        Yields:
            The slice of `triples` in the block, the index of the first mention pair of each of them, and the mention
            indices of head and tail, `[mention pairs]` each.
        """
        gold = self.documents
        base = gold.first_entity[self.document[triples]]
        heads, tails = base + self.head[triples], base + self.tail[triples]
        sizes = gold.mentions[heads].astype(np.int64) * gold.mentions[tails]
        ends = np.cumsum(sizes)
        start = 0
        while start < len(triples):
            before = ends[start] - sizes[start]
            end = max(start + 1, int(np.searchsorted(ends, before + MENTION_PAIRS, side="right")))
            block = slice(start, end)
            starts = ends[block] - sizes[block] - before
            within = np.arange(ends[end - 1] - before) - np.repeat(starts, sizes[block])
            tail_mentions = np.repeat(gold.mentions[tails[block]], sizes[block])
            yield (
                block,
                starts,
                np.repeat(gold.first_mention[heads[block]], sizes[block]) + within // tail_mentions,
                np.repeat(gold.first_mention[tails[block]], sizes[block]) + within % tail_mentions,
            )
            start = end


def _evidence_keys(triples: Indices, rows: Ints, sentences: Ints) -> Indices:
    """Return the unique keys (triple << 32) + sentence; `rows` are indices into `triples`."""
    keys: Indices = np.unique((triples[rows] << 32) + sentences)
    return keys
