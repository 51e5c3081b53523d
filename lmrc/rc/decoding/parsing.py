"""From the text of an answer back to triples, counting everything that could not be read.

Answers are lines `(head| relation| tail)` in the order of the pairs asked, the relations of a pair in the order of the
relation set. Names alone do not tell namesakes apart, their place does: of all ways to read the lines the one is taken
that departs least from that order (`_align`).
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from thefuzz import fuzz

from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document, Triple
from lmrc.rc.prompts.templates import NONE, Pair, entity_name

_UNKNOWN = -2
"""Rank of a relation outside the set: it answers its pair, but may stand anywhere among the pair's relations."""
_NONE = -1
"""Rank of `None`: the only answer of its pair."""

# What a reading costs where it leaves the order of an answer. Asked pairs that are passed over cost 1 each.
_DISORDER = 2
"""The same pair again with a relation that does not come after the one before."""
_BACKWARD = 3
"""A pair that comes before the one of the line before."""


class UnknownRelation(NamedTuple):
    """An answered relation that is not in the set, as it was written."""

    head: int
    tail: int
    relation: str


@dataclass(frozen=True, slots=True)
class Parsed:
    """What an answer says.

    `failures` counts, by kind: `malformed` (not of the form of a line), `unknown_relation` (listed in `unknown`),
    `rejected_name` (no entity is similar enough), `pair_not_asked`, `duplicate`, `unanswered_pair`, `out_of_order`
    (lines) and `ambiguous` (lines that could as well belong to a namesake pair). `none` is the number of pairs
    answered `None`.
    """

    triples: tuple[Triple, ...]
    lines: tuple[int, ...]
    """Of each triple the line of the answer, from 0, that says it first."""
    none: int
    failures: Counter[str]
    unknown: tuple[UnknownRelation, ...]


class _LineCandidate(NamedTuple):
    """One way to read a line: the position of a pair in the query, and the rank of its relation in the set."""

    position: int
    rank: int


@dataclass(slots=True)
class _Line:
    readings: list[_LineCandidate]
    relation: str = ""
    """As written, where it is not in the set."""


@dataclass(slots=True)
class _Query:
    """What an answer is read against."""

    names: set[str]
    """Of all entities of the document."""
    positions: dict[tuple[str, str], list[int]]
    """Of the pairs asked, by the names of head and tail."""
    ranks: dict[str, int]
    longest: int
    """Length of the longest relation name."""
    min_name_score: int
    closest: dict[tuple[int, str], str | None] = field(default_factory=dict)


def parse(
    text: str,
    document: Document,
    pairs: Sequence[Pair],
    relations: RelationSet,
    min_name_score: int = 80,
    none: str = NONE,
) -> Parsed:
    """Read the answer to a query for `pairs`.

    A name that is not exactly one of the document's is taken for the most similar one asked for (fuzz.ratio, as the
    published code) if that scores at least `min_name_score` (0..100); 0 takes the most similar one whatever its score.
    `relations` and `none`: those of `lmrc.rc.prompts.templates.Prompt.answer_set`.
    """
    ordered = sorted(pairs)
    names = [entity_name(document, entity) for entity in range(len(document.entities))]
    ranks = {name: rank for rank, name in enumerate(relations.names)} | {none: _NONE}
    positions: dict[tuple[str, str], list[int]] = {}
    for position, (head, tail) in enumerate(ordered):
        positions.setdefault((names[head], names[tail]), []).append(position)
    query = _Query(set(names), positions, ranks, max(map(len, ranks)), min_name_score)

    failures: Counter[str] = Counter()
    numbered = [
        (number, read)
        for number, written in enumerate(text.split("\n"))
        if written.strip()
        for read in _read(written.strip(), query, failures)
    ]
    chosen, failures["ambiguous"] = _align([read.readings for _, read in numbered], len(ordered))

    triples: dict[Triple, int] = {}
    unknown: list[UnknownRelation] = []
    answered: set[int] = set()
    nones: set[int] = set()
    before: _LineCandidate | None = None
    for (number, read), reading in zip(numbered, chosen, strict=True):
        head, tail = ordered[reading.position]
        answered.add(reading.position)
        repeated = False
        if reading.rank == _NONE:
            repeated = reading.position in nones
            nones.add(reading.position)
        elif reading.rank == _UNKNOWN:
            unknown.append(UnknownRelation(head, tail, read.relation))
        else:
            triple = Triple(head, tail, relations.ids[reading.rank])
            repeated = triple in triples
            triples.setdefault(triple, number)
        if repeated:
            failures["duplicate"] += 1
        elif before is not None and reading.position <= before.position and _step(before, reading) > 0:
            failures["out_of_order"] += 1
        before = reading
    failures["unknown_relation"] = len(unknown)
    failures["unanswered_pair"] = len(ordered) - len(answered)
    return Parsed(tuple(triples), tuple(triples.values()), len(nones), +failures, tuple(unknown))


def _read(written: str, query: _Query, failures: Counter[str]) -> list[_Line]:
    """The lines of an answer in one line of text: one, or several where the LM left out the newlines."""
    exact = _exact(written, query)
    if exact:
        return [_Line(exact)]
    pieces = re.split(r"(?<=\))[\s,;]*(?=\()", written)
    if len(pieces) > 1 and all(piece.count("|") >= 2 for piece in pieces):
        return [read for piece in pieces for read in _read(piece, query, failures)]
    read = _similar(written, query)
    if isinstance(read, str):
        failures[read] += 1
        return []
    return [read]


def _body(written: str) -> str | None:
    """What stands between the outer parentheses."""
    start, end = written.find("("), written.rfind(")")
    return written[start + 1 : end] if 0 <= start < end else None


def _bars(body: str) -> list[int]:
    return [index for index, character in enumerate(body) if character == "|"]


def _exact(written: str, query: _Query) -> list[_LineCandidate]:
    """All readings as an asked pair and a relation of the set; several where names repeat or contain bars."""
    body = _body(written)
    if body is None:
        return []
    bars = _bars(body)
    readings = []
    for number, first in enumerate(bars):
        for second in bars[number + 1 :]:
            # Two blanks around the relation; a longer middle is none, and this keeps runs of bars cheap.
            if second - first > query.longest + 8:
                break
            rank = query.ranks.get(body[first + 1 : second].strip())
            if rank is not None:
                names = body[:first].strip(), body[second + 1 :].strip()
                readings += [_LineCandidate(position, rank) for position in query.positions.get(names, ())]
    return sorted(set(readings))


def _similar(written: str, query: _Query) -> _Line | str:
    """The line read with similar names or a relation outside the set, or the kind of its failure."""
    body = _body(written)
    bars = _bars(body) if body is not None else []
    if body is None or len(bars) < 2:
        return "malformed"
    # Bars inside names: prefer a known relation between two bars, else what is between the outermost.
    first, second = next(
        (
            (first, second)
            for first, second in itertools.pairwise(bars)
            if body[first + 1 : second].strip() in query.ranks
        ),
        (bars[0], bars[-1]),
    )
    relation = body[first + 1 : second].strip()
    head = _closest(0, body[:first].strip(), query)
    tail = _closest(1, body[second + 1 :].strip(), query)
    if head is None or tail is None:
        return "rejected_name"
    positions = query.positions.get((head, tail))
    if positions is None:
        return "pair_not_asked"
    rank = query.ranks.get(relation, _UNKNOWN)
    return _Line([_LineCandidate(position, rank) for position in positions], relation)


def _closest(side: int, written: str, query: _Query) -> str | None:
    """The name that is meant: itself, or the most similar one of the asked heads (side 0) or tails (side 1)."""
    if written in query.names:
        return written
    if (side, written) not in query.closest:
        asked = dict.fromkeys(names[side] for names in query.positions)
        scores = {name: fuzz.ratio(written, name) for name in asked}
        best = max(scores, key=lambda name: scores[name])
        query.closest[side, written] = best if scores[best] >= query.min_name_score else None
    return query.closest[side, written]


def _step(before: _LineCandidate, after: _LineCandidate) -> int:
    """What it costs that `after` follows `before`."""
    if after.position > before.position:
        return after.position - before.position - 1
    if after.position < before.position:
        return _BACKWARD
    if _NONE in (before.rank, after.rank):
        return _DISORDER
    return 0 if _UNKNOWN in (before.rank, after.rank) or after.rank > before.rank else _DISORDER


def _align(lines: Sequence[Sequence[_LineCandidate]], pairs: int) -> tuple[list[_LineCandidate], int]:
    """The cheapest choice of one reading a line, and the number of lines on which equally cheap choices differ.

    A shortest path over the readings of successive lines (Viterbi); of equally short ones the one that takes the
    earliest pairs. An answer in the right order costs 0, so it is found, and found exactly where nothing else costs 0.
    """
    if not lines:
        return [], 0
    # rest[i][j]: cheapest continuation after reading j of line i.
    rest = [[0] * len(readings) for readings in lines]
    rest[-1] = [pairs - reading.position - 1 for reading in lines[-1]]
    for i in range(len(lines) - 2, -1, -1):
        rest[i] = [
            min(_step(reading, after) + cost for after, cost in zip(lines[i + 1], rest[i + 1], strict=True))
            for reading in lines[i]
        ]
    # so_far[j]: cheapest way to reading j of the current line.
    so_far = [reading.position for reading in lines[0]]
    best = min(cost + after for cost, after in zip(so_far, rest[0], strict=True))
    chosen: list[_LineCandidate] = []
    ambiguous = 0
    spent = 0
    for i, readings in enumerate(lines):
        if i:
            so_far = [
                min(cost + _step(before, reading) for before, cost in zip(lines[i - 1], so_far, strict=True))
                for reading in readings
            ]
        ambiguous += sum(cost + after == best for cost, after in zip(so_far, rest[i], strict=True)) > 1
        costs = [
            spent + (_step(chosen[-1], reading) if chosen else reading.position) + after
            for reading, after in zip(readings, rest[i], strict=True)
        ]
        pick = costs.index(best)
        spent = best - rest[i][pick]
        chosen.append(readings[pick])
    return chosen, ambiguous
