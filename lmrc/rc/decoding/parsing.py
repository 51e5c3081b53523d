"""Parser of answers: text to triples. It counts everything that it cannot read.

An answer has lines `(head| relation| tail)`, in the order of the pairs in the query; the relations of a pair are in the
order of the relation set. Two entities may have the same name. Then the order decides which one is meant: of all ways
to read the lines, `_align` takes the one with the fewest deviations from the order.
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

# Rank of a relation outside the set. It may stand anywhere among the relations of its pair.
_UNKNOWN = -2
# Rank of `None`, which is the only answer of its pair.
_NONE = -1

# Costs of deviations from the order of an answer. Each pair without an answer costs 1.
# The same pair again, with a relation that should come earlier.
_DISORDER = 2
# A pair that should come earlier than the pair of the previous line.
_BACKWARD = 3


class UnknownRelation(NamedTuple):
    """An answered relation that is not in the set. `relation` is its name as written."""

    head: int
    tail: int
    relation: str


@dataclass(frozen=True, slots=True)
class Parsed:
    """The content of an answer.

    Attributes:
        lines: for each triple, the index of the line that states it first.
        none: number of pairs answered `None`.
        failures: counts by kind: `malformed` (not a line), `unknown_relation` (listed in `unknown`), `rejected_name`
            (no entity is similar enough), `pair_not_asked`, `duplicate`, `unanswered_pair`, `out_of_order` (lines) and
            `ambiguous` (lines that fit another pair with the same names equally well).
    """

    triples: tuple[Triple, ...]
    lines: tuple[int, ...]
    none: int
    failures: Counter[str]
    unknown: tuple[UnknownRelation, ...]


class _LineCandidate(NamedTuple):
    """A way to read a line: the index of a pair in the query, and the rank of the relation in the set."""

    position: int
    rank: int


@dataclass(slots=True)
class _Line:
    """The candidates of a line. `relation` is its name as written, if it is not in the set."""

    candidates: list[_LineCandidate]
    relation: str = ""


@dataclass(slots=True)
class _Expected:
    """The names and relations that an answer may contain.

    Attributes:
        names: names of all entities of the document.
        positions: indices of the pairs in the query, by the names of head and tail.
        ranks: rank of each relation name.
        max_relation_length: length of the longest relation name.
        closest_names: cache of `_closest_name`.
    """

    names: set[str]
    positions: dict[tuple[str, str], list[int]]
    ranks: dict[str, int]
    max_relation_length: int
    min_fuzzy_score: int
    closest_names: dict[tuple[int, str], str | None] = field(default_factory=dict)


def parse(
    text: str,
    document: Document,
    pairs: Sequence[Pair],
    relations: RelationSet,
    min_fuzzy_score: int = 80,
    none: str = NONE,
) -> Parsed:
    """Parse the answer to a query for `pairs`.

    Args:
        text: the answer.
        relations: relation set of the answer (`lmrc.rc.prompts.templates.answer_set`).
        min_fuzzy_score: a name that is not in the document is replaced by the most similar name in the query if their
            `fuzz.ratio` (0 to 100) is at least this. 0 always replaces it, as in the published code.
        none: the answer for a pair without a relation.
    """
    ordered = sorted(pairs)
    names = [entity_name(document, entity) for entity in range(len(document.entities))]
    ranks = {name: rank for rank, name in enumerate(relations.names)} | {none: _NONE}
    positions: dict[tuple[str, str], list[int]] = {}
    for position, (head, tail) in enumerate(ordered):
        positions.setdefault((names[head], names[tail]), []).append(position)
    expected = _Expected(set(names), positions, ranks, max(map(len, ranks)), min_fuzzy_score)

    failures: Counter[str] = Counter()
    numbered_lines = [
        (index, line)
        for index, written in enumerate(text.split("\n"))
        if written.strip()
        for line in _read_line(written.strip(), expected, failures)
    ]
    chosen, failures["ambiguous"] = _align([line.candidates for _, line in numbered_lines], len(ordered))

    triples: dict[Triple, int] = {}
    unknown: list[UnknownRelation] = []
    answered: set[int] = set()
    none_positions: set[int] = set()
    previous: _LineCandidate | None = None
    for (index, line), candidate in zip(numbered_lines, chosen, strict=True):
        head, tail = ordered[candidate.position]
        answered.add(candidate.position)
        is_duplicate = False
        if candidate.rank == _NONE:
            is_duplicate = candidate.position in none_positions
            none_positions.add(candidate.position)
        elif candidate.rank == _UNKNOWN:
            unknown.append(UnknownRelation(head, tail, line.relation))
        else:
            triple = Triple(head, tail, relations.ids[candidate.rank])
            is_duplicate = triple in triples
            triples.setdefault(triple, index)
        if is_duplicate:
            failures["duplicate"] += 1
        elif previous is not None and candidate.position <= previous.position and _cost(previous, candidate) > 0:
            failures["out_of_order"] += 1
        previous = candidate
    failures["unknown_relation"] = len(unknown)
    failures["unanswered_pair"] = len(ordered) - len(answered)
    return Parsed(tuple(triples), tuple(triples.values()), len(none_positions), +failures, tuple(unknown))


def _read_line(written: str, expected: _Expected, failures: Counter[str]) -> list[_Line]:
    """Read one line of text. It contains several lines of an answer if the LM left out the newlines."""
    candidates = _exact_candidates(written, expected)
    if candidates:
        return [_Line(candidates)]
    pieces = re.split(r"(?<=\))[\s,;]*(?=\()", written)
    if len(pieces) > 1 and all(piece.count("|") >= 2 for piece in pieces):
        return [line for piece in pieces for line in _read_line(piece, expected, failures)]
    line = _read_similar(written, expected)
    if isinstance(line, str):
        failures[line] += 1
        return []
    return [line]


def _body(written: str) -> str | None:
    """Return the text between the outer parentheses."""
    start, end = written.find("("), written.rfind(")")
    return written[start + 1 : end] if 0 <= start < end else None


def _bars(body: str) -> list[int]:
    return [index for index, character in enumerate(body) if character == "|"]


def _exact_candidates(written: str, expected: _Expected) -> list[_LineCandidate]:
    """Return all exact readings of a line. There are several if names repeat or contain bars."""
    body = _body(written)
    if body is None:
        return []
    bars = _bars(body)
    candidates = []
    for index, first in enumerate(bars):
        for second in bars[index + 1 :]:
            # Allow some white space around the relation. The limit keeps long runs of bars fast.
            if second - first > expected.max_relation_length + 8:
                break
            rank = expected.ranks.get(body[first + 1 : second].strip())
            if rank is not None:
                names = body[:first].strip(), body[second + 1 :].strip()
                candidates += [_LineCandidate(position, rank) for position in expected.positions.get(names, ())]
    return sorted(set(candidates))


def _read_similar(written: str, expected: _Expected) -> _Line | str:
    """Read a line with similar names or a relation outside the set. If that fails, return the kind of failure."""
    body = _body(written)
    bars = _bars(body) if body is not None else []
    if body is None or len(bars) < 2:
        return "malformed"
    # Names may contain bars: prefer two neighboring bars around a known relation, else take the outermost ones.
    first, second = next(
        (
            (first, second)
            for first, second in itertools.pairwise(bars)
            if body[first + 1 : second].strip() in expected.ranks
        ),
        (bars[0], bars[-1]),
    )
    relation = body[first + 1 : second].strip()
    head = _closest_name(0, body[:first].strip(), expected)
    tail = _closest_name(1, body[second + 1 :].strip(), expected)
    if head is None or tail is None:
        return "rejected_name"
    positions = expected.positions.get((head, tail))
    if positions is None:
        return "pair_not_asked"
    rank = expected.ranks.get(relation, _UNKNOWN)
    return _Line([_LineCandidate(position, rank) for position in positions], relation)


def _closest_name(side: int, written: str, expected: _Expected) -> str | None:
    """Return the name itself if an entity has it, else the most similar one of the heads (side 0) or tails (side 1)."""
    if written in expected.names:
        return written
    if (side, written) not in expected.closest_names:
        scores = {names[side]: fuzz.ratio(written, names[side]) for names in expected.positions}
        best = max(scores, key=lambda name: scores[name])
        expected.closest_names[side, written] = best if scores[best] >= expected.min_fuzzy_score else None
    return expected.closest_names[side, written]


def _cost(previous: _LineCandidate, candidate: _LineCandidate) -> int:
    """Return the cost if `candidate` follows `previous`."""
    if candidate.position > previous.position:
        return candidate.position - previous.position - 1
    if candidate.position < previous.position:
        return _BACKWARD
    ranks = (previous.rank, candidate.rank)
    if _NONE in ranks:
        return _DISORDER
    return 0 if _UNKNOWN in ranks or candidate.rank > previous.rank else _DISORDER


def _align(lines: Sequence[Sequence[_LineCandidate]], pairs: int) -> tuple[list[_LineCandidate], int]:
    """Choose one candidate per line with the lowest total cost (Viterbi algorithm).

    Of equally cheap paths it takes the one with the earliest pairs. An answer in the right order costs 0.

    Returns:
        The candidates, and the number of lines on which equally cheap paths differ.
    """
    if not lines:
        return [], 0
    # cost_to_end[i][j]: lowest cost from candidate j of line i to the end.
    cost_to_end = [[0] * len(candidates) for candidates in lines]
    cost_to_end[-1] = [pairs - candidate.position - 1 for candidate in lines[-1]]
    for i in range(len(lines) - 2, -1, -1):
        cost_to_end[i] = [
            min(_cost(candidate, after) + rest for after, rest in zip(lines[i + 1], cost_to_end[i + 1], strict=True))
            for candidate in lines[i]
        ]
    # cost_so_far[j]: lowest cost up to candidate j of the current line.
    cost_so_far = [candidate.position for candidate in lines[0]]
    lowest = min(cost + rest for cost, rest in zip(cost_so_far, cost_to_end[0], strict=True))
    chosen: list[_LineCandidate] = []
    ambiguous = 0
    chosen_cost = 0
    for i, candidates in enumerate(lines):
        if i:
            cost_so_far = [
                min(cost + _cost(before, candidate) for before, cost in zip(lines[i - 1], cost_so_far, strict=True))
                for candidate in candidates
            ]
        ambiguous += sum(cost + rest == lowest for cost, rest in zip(cost_so_far, cost_to_end[i], strict=True)) > 1
        total_costs = [
            chosen_cost + (_cost(chosen[-1], candidate) if chosen else candidate.position) + rest
            for candidate, rest in zip(candidates, cost_to_end[i], strict=True)
        ]
        index = total_costs.index(lowest)
        chosen_cost = lowest - cost_to_end[i][index]
        chosen.append(candidates[index])
    return chosen, ambiguous
