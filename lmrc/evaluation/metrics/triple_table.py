"""All triples that are gold or predicted, once each, as columns: every score is a count over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lmrc.corpus.predictions import Predictions
from lmrc.evaluation.metrics.gold_table import Gold, Ints, Places
from lmrc.evaluation.metrics.train_facts import Facts

Flags = npt.NDArray[np.bool_]

MENTION_PAIRS = 1 << 22
"""Pairs of mentions that are looked at together."""


def distinct(*columns: Ints) -> tuple[Places, Places]:
    """Of rows given as columns: a place of each distinct one, sorted by the columns; and which of these each row is."""
    order = np.lexsort(columns[::-1])
    new = np.ones(len(order), dtype=np.bool_)
    if len(order):
        new[1:] = False
    for column in columns:
        values = column[order]
        new[1:] |= values[1:] != values[:-1]
    which = np.empty(len(order), dtype=np.int64)
    which[order] = np.cumsum(new) - 1
    return order[new], which


@dataclass(frozen=True, eq=False)
class Triples:
    """Every triple that is gold or that a system predicts, sorted by (document, head, tail, relation).

    A system is a set of predictions for the same gold documents: another run, another seed. All columns are
    `[triples]`, but `predicted` is `[systems, triples]`.
    """

    known: Gold
    """The gold documents."""
    titles: tuple[str, ...]
    """Those of the gold documents, then those that only predictions name."""
    relations: tuple[str, ...]
    """The ids of the relation set, then those that only predictions name."""
    document: Ints
    """Places in `titles`."""
    head: Ints
    tail: Ints
    relation: Ints
    """Places in `relations`."""
    gold: Flags
    predicted: Flags
    duplicates: tuple[int, ...]
    """[systems] predictions given again."""
    gold_evidence: Places
    """(triple << 32) + sentence, sorted, each once."""
    predicted_evidence: tuple[Places | None, ...]
    """[systems] the same; None where no prediction carries evidence."""

    @classmethod
    def of(cls, gold: Gold, systems: Sequence[Predictions]) -> Triples:
        """Bring gold and predictions together. Neither order nor repetition of predictions has any influence."""
        titles = {title: place for place, title in enumerate(gold.titles)}
        relations = {relation: place for place, relation in enumerate(gold.relations.ids)}
        # Names that only predictions use are sorted: the result does not depend on who came first.
        for names, given in ((titles, [s.titles for s in systems]), (relations, [s.relations for s in systems])):
            for name in sorted({name for some in given for name in some} - names.keys()):
                names[name] = len(names)
        columns = [(gold.document, gold.head, gold.tail, gold.relation)]
        for system in systems:
            to_document = np.array([titles[title] for title in system.titles], dtype=np.int32)
            to_relation = np.array([relations[relation] for relation in system.relations], dtype=np.int32)
            columns.append((to_document[system.document], system.head, system.tail, to_relation[system.relation]))
        document, head, tail, relation = (np.concatenate(parts) for parts in zip(*columns, strict=True))
        first, which = distinct(document, head, tail, relation)
        cuts = np.cumsum([len(part[0]) for part in columns])
        parts = np.split(which, cuts[:-1])
        present = np.zeros((len(columns), len(first)), dtype=np.bool_)
        for row, part in zip(present, parts, strict=True):
            row[part] = True
        return cls(
            known=gold,
            titles=tuple(titles),
            relations=tuple(relations),
            document=document[first],
            head=head[first],
            tail=tail[first],
            relation=relation[first],
            gold=present[0],
            predicted=present[1:],
            duplicates=tuple(len(part) - int(row.sum()) for part, row in zip(parts[1:], present[1:], strict=True)),
            gold_evidence=_evidence(parts[0], gold.evidence_of, gold.evidence),
            predicted_evidence=tuple(
                _evidence(part, system.evidence_of, system.evidence) if system.has_evidence.any() else None
                for part, system in zip(parts[1:], systems, strict=True)
            ),
        )

    def __len__(self) -> int:
        return len(self.document)

    @cached_property
    def placed(self) -> Flags:
        """Whether the document and both entities exist."""
        here = self.document < len(self.known)
        entities = np.zeros(len(self), dtype=np.int32)
        entities[here] = self.known.entities[self.document[here]]
        placed: Flags = (self.head >= 0) & (self.head < entities) & (self.tail >= 0) & (self.tail < entities)
        return placed

    @cached_property
    def pair(self) -> Places:
        """Which pair (document, head, tail) each triple is about: 0, 1, … in their order."""
        new = np.zeros(len(self), dtype=np.bool_)
        for column in (self.document, self.head, self.tail):
            new[1:] |= column[1:] != column[:-1]
        return np.cumsum(new)

    @cached_property
    def distance(self) -> Ints:
        """Sentences between the nearest mentions of head and tail: 0 in one sentence (intra); -1 if not `placed`."""
        first = np.flatnonzero(np.diff(self.pair, prepend=-1))
        placed = np.flatnonzero(self.placed[first])
        of_pairs = np.full(len(first), -1, dtype=np.int32)
        sentence = self.known.mention_sentence
        for rows, starts, head, tail in self._mention_pairs(first[placed]):
            of_pairs[placed[rows]] = np.minimum.reduceat(np.abs(sentence[head] - sentence[tail]), starts)
        return of_pairs[self.pair]

    def mentions(self, entity: Ints) -> Ints:
        """The number of mentions of an entity (`head` or `tail`) of each triple; 0 if not `placed`."""
        counts = np.zeros(len(self), dtype=np.int32)
        document = self.document[self.placed]
        counts[self.placed] = self.known.mentions[self.known.first_entity[document] + entity[self.placed]]
        return counts

    def in_training(self, facts: Facts) -> Flags:
        """Whether each gold triple is a fact: any name of the head, any name of the tail, the relation."""
        places = {name: place for place, name in enumerate(self.known.names)}
        relations = self.known.relations

        def key(head: Any, tail: Any, relation: Any) -> Any:
            return (head * len(places) + tail) * len(relations) + relation

        # Names that no gold document has can be left away.
        known = [
            key(places[head], places[tail], relations.index(relation))
            for head, tail, relation in facts.triples
            if head in places and tail in places and relation in relations
        ]
        keys = np.sort(np.array(known, dtype=np.int64))
        found = np.zeros(len(self), dtype=np.bool_)
        gold = np.flatnonzero(self.gold)
        for rows, starts, head, tail in self._mention_pairs(gold):
            names = self.known.mention_name.astype(np.int64)
            relation = np.repeat(self.relation[gold[rows]], np.diff(starts, append=len(head)))
            found[gold[rows]] = np.logical_or.reduceat(np.isin(key(names[head], names[tail], relation), keys), starts)
        return found

    def _mention_pairs(self, triples: Places) -> Iterator[tuple[slice, Places, Places, Places]]:
        """All pairs of a mention of the head and one of the tail, block by block.

        Yields which of `triples` (all of them placed), where the pairs of each of these begin, and the places of the
        mentions `[pairs]`.
        """
        gold = self.known
        base = gold.first_entity[self.document[triples]]
        heads, tails = base + self.head[triples], base + self.tail[triples]
        sizes = gold.mentions[heads].astype(np.int64) * gold.mentions[tails]
        ends = np.cumsum(sizes)
        start = 0
        while start < len(triples):
            before = ends[start] - sizes[start]
            end = max(start + 1, int(np.searchsorted(ends, before + MENTION_PAIRS, side="right")))
            here = slice(start, end)
            starts = ends[here] - sizes[here] - before
            within = np.arange(ends[end - 1] - before) - np.repeat(starts, sizes[here])
            of_tail = np.repeat(gold.mentions[tails[here]], sizes[here])
            yield (
                here,
                starts,
                np.repeat(gold.first_mention[heads[here]], sizes[here]) + within // of_tail,
                np.repeat(gold.first_mention[tails[here]], sizes[here]) + within % of_tail,
            )
            start = end


def _evidence(triples: Places, rows: Ints, sentences: Ints) -> Places:
    """The key of each (triple, sentence), once; `rows` are places in `triples`."""
    keys: Places = np.unique((triples[rows] << 32) + sentences)
    return keys
