"""Grammar of the possible answers to a query.

The pairs are known, so an answer chooses only the relations of each pair. It has one line per relation. Pairs come in
the order of the query, each at least once. The relations of a pair are distinct and in the order of the relation set.
With a relation schema, a pair has only the relations that may hold between its entity types.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby, takewhile
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from lmrc.config.schema import PromptKind
from lmrc.corpus.relation_schema import RelationSchema, entity_types
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document
from lmrc.rc.decoding.line_tokens import ANY_LINE, Line, LineEnd, PairLines, tokenize_lines
from lmrc.rc.prompts.query_builder import Query
from lmrc.rc.prompts.templates import PROMPTS, entity_name

# Relation index of the end of sequence.
END = -1
# Ranks of a line within its pair. Relations have their index; only a relation of higher rank may follow another one.
_NONE_RANK, _END_RANK, _LOWEST = -1, -2, -3
# Token ids and rank.
_RankedLine = tuple[Line, int]


class PossibleLine(NamedTuple):
    """A line that an answer may have.

    Attributes:
        relation: index in the relation set; the index after the last one is None, and `END` the end of sequence.
        tokens: token ids of the line, after those that finish the line before. If the tokenizer merges newlines with
            lines, they are without the end of the line, which depends on what follows.
    """

    pair: int
    relation: int
    tokens: Line


class _Pair(NamedTuple):
    """The lines of a pair, or the end of sequence.

    Attributes:
        position: index of the pair; for the end of sequence the number of pairs.
        ends: end of each line [relations].
    """

    position: int
    ends: Sequence[LineEnd]


class _Link(NamedTuple):
    """The end of a line, if its tokens depend on what follows.

    Attributes:
        tokens: token ids.
        before_end: token ids of the same end if nothing follows.
        following: states after it.
    """

    tokens: Line
    before_end: Line
    following: Sequence[_State]


class _Node:
    """Node of a prefix tree over the lines of one pair, or over one end of a line.

    Its children are created when an answer reaches them.

    Attributes:
        source: what the tree is made of.
        finished: ranks of the lines that end here.
    """

    def __init__(self, source: _Pair | _Link, lines: Sequence[_RankedLine], depth: int = 0) -> None:
        """Create a node.

        Args:
            lines: the lines that start with the tokens of this node, sorted.
            depth: number of these tokens.
        """
        self.source = source
        # Sorted lines begin with those that are not longer than their common tokens.
        self.finished = [rank for _, rank in takewhile(lambda line: len(line[0]) == depth, lines)]
        self._longer, self._depth = lines[len(self.finished) :], depth
        self._children: dict[int, _Node] = {}

    def continues(self, lowest: int) -> bool:
        """Return whether a line that is longer has a rank above `lowest`."""
        return any(rank > lowest for _, rank in self._longer)

    @cached_property
    def chain(self) -> Line:
        """Return the next tokens that all longer lines have in common."""
        return _common_prefix([self._longer[0][0][self._depth :], self._longer[-1][0][self._depth :]])

    @cached_property
    def _groups(self) -> dict[int, list[_RankedLine]]:
        """The longer lines by their next token."""
        return {token: list(lines) for token, lines in groupby(self._longer, lambda line: line[0][self._depth])}

    def tokens(self, lowest: int) -> Iterable[int]:
        """Return the next tokens of the lines whose rank is above `lowest`."""
        if lowest == _LOWEST:
            return self._groups
        return [token for token, lines in self._groups.items() if any(rank > lowest for _, rank in lines)]

    def child(self, token: int) -> _Node | None:
        """Return the node after one more token, if there is one."""
        if token not in self._children:
            if token not in self._groups:
                return None
            self._children[token] = _Node(self.source, self._groups[token], self._depth + 1)
        return self._children[token]

    def skip(self, tokens: int) -> _Node:
        """Return the node after the first tokens of `chain`."""
        return _Node(self.source, self._longer, self._depth + tokens)


def _common_prefix(lines: Sequence[Line]) -> Line:
    """Return the tokens that all lines start with."""
    # In sorted order, the first and the last line share the fewest tokens.
    first, last = min(lines), max(lines)
    length = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    return first[:length]


class _State(NamedTuple):
    """A node that the answer may be in.

    Attributes:
        lowest: rank that the line must exceed.
        line: number of lines before the one that is being chosen.
    """

    node: _Node
    lowest: int = _LOWEST
    line: int = 0


class Grammar:
    """The possible answers to a query, as token ids."""

    def __init__(
        self,
        query: Query,
        document: Document,
        relations: RelationSet,
        kind: PromptKind,
        tokenizer: PreTrainedTokenizerBase,
        schema: RelationSchema | None = None,
    ) -> None:
        """Collect the entity and relation names of the possible lines.

        Args:
            kind: `direct` allows None as an answer; `rcp-llm` has the relations Yes and No instead of `relations`.
            tokenizer: tokenizer of the LM.
            schema: offers each pair its admissible relations, or all if there are none; by default all.
        """
        self._tokenizer = tokenizer
        self._names = [(entity_name(document, head), entity_name(document, tail)) for head, tail in query.pairs]
        answers = PROMPTS[kind].answer_set(relations)
        self._none = len(answers.relations.names) if answers.none_is_possible else None
        self._relations = [*answers.relations.names, *([answers.none] if answers.none_is_possible else [])]
        every = tuple(range(len(answers.relations.names)))
        types = entity_types(document)
        # Relations that are offered to each pair, ascending and without None.
        self._offered = [
            every if schema is None else schema.admissible(types[head], types[tail]) or every
            for head, tail in query.pairs
        ]
        self._end = (int(tokenizer.eos_token_id),)
        self._roots: dict[int, _Node] = {}

    @cached_property
    def _first_lines(self) -> list[PairLines]:
        """Token ids of the lines at the start of an answer [pairs]."""
        return tokenize_lines(self._tokenizer, self._names, self._relations)

    @cached_property
    def _later_lines(self) -> list[PairLines]:
        """Token ids of the lines after another line [pairs]."""
        return tokenize_lines(self._tokenizer, self._names, self._relations, ANY_LINE)

    def first_lines(self, pair: int) -> list[Line]:
        """Return the token ids of the pair's line for each relation (and None), at the start of an answer.

        Lines of relations that are not offered to the pair are among them. If the tokenizer merges newlines with
        lines, they are without the end of the line.
        """
        return self._first_lines[pair].ids

    def _offered_lines(self, pair: int, lines: PairLines) -> Iterator[tuple[int, Line]]:
        """Yield the relations that are offered to a pair, and None if it is possible, with their lines."""
        for relation in self._offered[pair]:
            yield relation, lines.ids[relation]
        if self._none is not None:
            yield self._none, lines.ids[self._none]

    def offered(self, pair: int) -> Sequence[int]:
        """Return the indices of the relations that are offered to a pair, ascending and without None."""
        return self._offered[pair]

    def lines(self, pair: int, is_first: bool = False) -> PairLines:
        """Return the lines of a pair for each relation (and None), after another line or at the start of an answer."""
        return (self._first_lines if is_first else self._later_lines)[pair]

    @property
    def none(self) -> int | None:
        """Index of None among the lines of a pair; None if it is no answer."""
        return self._none

    @property
    def pair_count(self) -> int:
        """Number of pairs in the query."""
        return len(self._names)

    @property
    def relation_count(self) -> int:
        """Number of relations in the set, without None."""
        return len(self._relations) - (self._none is not None)

    def next_lines(self, pair: int, relations: Sequence[int]) -> list[tuple[int | None, Line]]:
        """Return the lines that may follow if an answer starts with `relations` of `pair`.

        Returns:
            For each line the relation that it gives to the pair (the index after the last one is None), and its token
            ids. The relation is None for a line of the next pair and for the end of sequence.
        """
        if not relations:
            return list(self._offered_lines(pair, self._first_lines[pair]))
        return [
            (possible.relation if possible.pair == pair and possible.relation != END else None, possible.tokens)
            for possible in self.after(pair, relations[-1], is_first=len(relations) == 1)
        ]

    def after(self, pair: int, relation: int, is_first: bool = False) -> Iterator[PossibleLine]:
        """Yield what may follow a line: another relation of the pair, the next pair, or the end.

        Args:
            is_first: whether the line starts the answer.
        """
        end = (self._first_lines if is_first else self._later_lines)[pair].ends[relation]
        if relation != self._none:
            for later, tokens in self._offered_lines(pair, self._later_lines[pair]):
                if later > relation and later != self._none:
                    yield PossibleLine(pair, later, end.before_line + tokens)
        if pair + 1 < len(self._names):
            for later, tokens in self._offered_lines(pair + 1, self._later_lines[pair + 1]):
                yield PossibleLine(pair + 1, later, end.before_line + tokens)
        else:
            yield PossibleLine(pair, END, end.before_end + self._end)

    def start(self) -> list[_State]:
        """Return the states of an empty answer."""
        # Not first_lines, which tokenizes those of all pairs.
        (lines,) = tokenize_lines(self._tokenizer, self._names[:1], self._relations)
        return [_State(_Node(_Pair(0, lines.ends), self._ranked(0, lines)))]

    def states_after(self, pair: _Pair, rank: int) -> Iterator[_State]:
        """Yield the states after a line, as `after` does for lines."""
        # None, which has rank -1, is the last relation.
        end = pair.ends[rank]
        following = []
        if 0 <= rank < self._offered[pair.position][-1]:
            following.append(_State(self._root(pair.position), rank))
        next_state = _State(self._root(pair.position + 1))
        if pair.position + 1 < len(self._names):
            yield from _link(end.before_line, end.before_end, [*following, next_state])
        else:
            yield from _link(end.before_line, end.before_end, following)
            yield from _link(end.before_end, end.before_end, [next_state])

    def _root(self, pair: int) -> _Node:
        """Return the tree of the pair's lines after another line; after the last pair, that of the end of sequence."""
        if pair not in self._roots:
            if pair == len(self._names):
                self._roots[pair] = _Node(_Pair(pair, []), [(self._end, _END_RANK)])
            else:
                lines = self._later_lines[pair]
                self._roots[pair] = _Node(_Pair(pair, lines.ends), self._ranked(pair, lines))
        return self._roots[pair]

    def _ranked(self, pair: int, lines: PairLines) -> list[_RankedLine]:
        """Return the lines of the relations that are offered to a pair, sorted, with their ranks."""
        offered = self._offered_lines(pair, lines)
        return sorted((ids, _NONE_RANK if relation == self._none else relation) for relation, ids in offered)


def _link(tokens: Line, before_end: Line, following: Sequence[_State]) -> Sequence[_State]:
    """Return the states before the end of a line, if it has tokens of its own; else those after it."""
    if not tokens or not following:
        return following
    return [_State(_Node(_Link(tokens, before_end, following), [(tokens, _NONE_RANK)]))]


class PartialAnswer:
    """An answer that is being written, with all parse states that still match: two pairs may have the same names.

    Attributes:
        ids: token ids so far, with the end of sequence.
        ended: True after the end of sequence.
        line: index of the line that the last token belongs to. How a line ends, if that depends on whether another
            line follows, belongs to the next line.
    """

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._states = grammar.start()
        self.ids: list[int] = []
        self.ended = False
        self.line = 0
        # Number of tokens of the complete lines, and the last tokens of these lines if nothing follows.
        self._complete: tuple[int, Line] = (0, ())

    def complete_lines(self) -> list[int]:
        """Return the token ids without an unfinished last line, as if the answer ended before it."""
        if self.ended:
            return self.ids
        length, end = self._complete
        return [*self.ids[:length], *end]

    def allowed(self) -> list[int]:
        """Return the distinct tokens that may come next. Call it only if the answer has not ended."""
        return sorted({token for node, lowest, _ in self._states for token in node.tokens(lowest)})

    def write(self, token: int) -> None:
        """Append one of the allowed tokens."""
        self.ids.append(token)
        states: list[_State] = []
        for node, lowest, line in self._states:
            child = node.child(token)
            if child is None:
                continue
            self.line = line
            if child.continues(lowest):
                states.append(_State(child, lowest, line))
            for rank in child.finished:
                if rank == _END_RANK:
                    self.ended = True
                elif rank > lowest:
                    states.extend(self._finish(child.source, rank, line))
        self._states = states

    def _finish(self, source: _Pair | _Link, rank: int, line: int) -> Iterator[_State]:
        """Yield the states after a line, or after its end."""
        if isinstance(source, _Link):
            self._complete = (len(self.ids) - len(source.tokens), source.before_end)
            following: Iterable[_State] = source.following
        else:
            if not source.ends[rank].before_end:
                self._complete = (len(self.ids), ())
            following, line = self._grammar.states_after(source, rank), line + 1
        for node, lowest, _ in following:
            yield _State(node, lowest, line)

    def write_forced(self, max_tokens: int) -> list[int]:
        """Append tokens while only one is allowed, at most `max_tokens`, and return them."""
        start = len(self.ids)
        while not self.ended and len(self.ids) - start < max_tokens:
            chain = _common_prefix([node.chain for node, *_ in self._states])[: max_tokens - len(self.ids) + start]
            # Lines of a rank that is not allowed may branch where the allowed ones do not.
            forced = chain or self.allowed()
            if not chain and len(forced) > 1:
                break
            *skipped, last = forced
            if skipped:
                self.ids += skipped
                self._states = [state._replace(node=state.node.skip(len(skipped))) for state in self._states]
            self.write(last)
        return self.ids[start:]
