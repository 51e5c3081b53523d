"""Grammar of the possible answers to a query.

The pairs are known, so an answer chooses only the relations of each pair. It has one line per relation. Pairs come in
the order of the query, each at least once. The relations of a pair are distinct and in the order of the relation set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby, takewhile
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from lmrc.config.schema import PromptKind
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document
from lmrc.rc.decoding.line_tokens import Line, tokenize_lines
from lmrc.rc.prompts.query_builder import Query
from lmrc.rc.prompts.templates import PROMPTS, entity_name

# An arbitrary finished line. Later lines are tokenized after it, so that their ids are those within a whole answer.
_PREVIOUS_LINE = "(a| b| c)"
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
        tokens: token ids of the line.
    """

    pair: int
    relation: int
    tokens: Line


class _Node:
    """Node of a prefix tree over the lines of one pair. What is below it is created when an answer gets there.

    Attributes:
        pair: index of the pair.
        finished: ranks of the lines that end here.
    """

    def __init__(self, pair: int, lines: Sequence[_RankedLine], depth: int = 0) -> None:
        """Create a node.

        Args:
            lines: the lines that start with the tokens of this node, sorted.
            depth: number of these tokens.
        """
        self.pair = pair
        # Sorted lines begin with those that are not longer than their common tokens.
        self.finished = [rank for _, rank in takewhile(lambda line: len(line[0]) == depth, lines)]
        self._longer, self._depth = lines[len(self.finished) :], depth
        self._children: dict[int, _Node] = {}

    def continues(self, lowest: int) -> bool:
        """Return whether a line that is longer has a rank above `lowest`."""
        return any(rank > lowest for _, rank in self._longer)

    @cached_property
    def chain(self) -> Line:
        """The next tokens that all longer lines have in common."""
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
            self._children[token] = _Node(self.pair, self._groups[token], self._depth + 1)
        return self._children[token]

    def skip(self, tokens: int) -> _Node:
        """Return the node after the first tokens of `chain`."""
        return _Node(self.pair, self._longer, self._depth + tokens)


def _common_prefix(lines: Sequence[Line]) -> Line:
    """Return the tokens that all lines start with."""
    # The lowest and the highest one differ first.
    first, last = min(lines), max(lines)
    length = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    return first[:length]


# A node that the answer may be in, and the rank that the line must exceed.
_State = tuple[_Node, int]


class Grammar:
    """The possible answers to a query, as token ids."""

    def __init__(
        self,
        query: Query,
        document: Document,
        relations: RelationSet,
        kind: PromptKind,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        """Collect the entity and relation names of the possible lines.

        Args:
            kind: `direct` allows None as an answer; `rcp-llm` has the relations Yes and No instead of `relations`.
            tokenizer: tokenizer of the LM.
        """
        self._tokenizer = tokenizer
        self._names = [(entity_name(document, head), entity_name(document, tail)) for head, tail in query.pairs]
        answers = PROMPTS[kind].answer_set(relations)
        self._none = len(answers.relations.names) if answers.none_is_possible else None
        self._relations = [*answers.relations.names, *([answers.none] if answers.none_is_possible else [])]
        self._end = (int(tokenizer.eos_token_id),)
        self._roots: dict[int, _Node] = {}

    @cached_property
    def _first_lines(self) -> list[list[Line]]:
        """Token ids of the lines at the start of an answer [pairs][relations]."""
        return tokenize_lines(self._tokenizer, self._names, self._relations)

    @cached_property
    def _later_lines(self) -> list[list[Line]]:
        """Token ids of the lines after another line [pairs][relations]."""
        return tokenize_lines(self._tokenizer, self._names, self._relations, _PREVIOUS_LINE)

    def first_lines(self, pair: int) -> list[Line]:
        """Return the token ids of the pair's line for each relation (and None), at the start of an answer."""
        return self._first_lines[pair]

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
            return list(enumerate(self.first_lines(pair)))
        return [
            (possible.relation if possible.pair == pair and possible.relation != END else None, possible.tokens)
            for possible in self.after(pair, relations[-1])
        ]

    def after(self, pair: int, relation: int) -> Iterator[PossibleLine]:
        """Yield what may follow a finished line: another relation of the pair, the next pair, or the end."""
        if relation != self._none:
            for later in range(relation + 1, self.relation_count):
                yield PossibleLine(pair, later, self._later_lines[pair][later])
        if pair + 1 < len(self._names):
            for later, tokens in enumerate(self._later_lines[pair + 1]):
                yield PossibleLine(pair + 1, later, tokens)
        else:
            yield PossibleLine(pair, END, self._end)

    def start(self) -> list[_State]:
        """Return the states of an empty answer."""
        # Not first_lines, which tokenizes those of all pairs.
        (lines,) = tokenize_lines(self._tokenizer, self._names[:1], self._relations)
        return [(_Node(0, self._ranked(lines)), _LOWEST)]

    def states_after(self, pair: int, rank: int) -> Iterator[_State]:
        """Yield the states after a finished line, as `after` does for lines."""
        if 0 <= rank < self.relation_count - 1:
            yield self._root(pair), rank
        yield self._root(pair + 1), _LOWEST

    def _root(self, pair: int) -> _Node:
        """Return the tree of the pair's lines after another line; after the last pair, that of the end of sequence."""
        if pair not in self._roots:
            is_end = pair == len(self._names)
            lines = [(self._end, _END_RANK)] if is_end else self._ranked(self._later_lines[pair])
            self._roots[pair] = _Node(pair, lines)
        return self._roots[pair]

    def _ranked(self, lines: Sequence[Line]) -> list[_RankedLine]:
        return sorted((ids, _NONE_RANK if relation == self._none else relation) for relation, ids in enumerate(lines))


class PartialAnswer:
    """An answer that is being written, with all parse states that still match: two pairs may have the same names.

    Attributes:
        ids: token ids so far, with the end of sequence.
        ended: True after the end of sequence.
    """

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._states = grammar.start()
        self.ids: list[int] = []
        self.ended = False
        self._complete_length = 0

    def complete_lines(self) -> list[int]:
        """Return the token ids without an unfinished last line."""
        return self.ids if self.ended else self.ids[: self._complete_length]

    def allowed(self) -> list[int]:
        """Return the distinct tokens that may come next. Call it only if the answer has not ended."""
        return sorted({token for node, lowest in self._states for token in node.tokens(lowest)})

    def write(self, token: int) -> None:
        """Append one of the allowed tokens."""
        self.ids.append(token)
        states: list[_State] = []
        for node, lowest in self._states:
            child = node.child(token)
            if child is None:
                continue
            if child.continues(lowest):
                states.append((child, lowest))
            for rank in child.finished:
                if rank == _END_RANK:
                    self.ended = True
                elif rank > lowest:
                    self._complete_length = len(self.ids)
                    states.extend(self._grammar.states_after(child.pair, rank))
        self._states = states

    def write_forced(self, max_tokens: int) -> list[int]:
        """Append tokens while only one is allowed, at most `max_tokens`, and return them."""
        start = len(self.ids)
        while not self.ended and len(self.ids) - start < max_tokens:
            chain = _common_prefix([node.chain for node, _ in self._states])[: max_tokens - len(self.ids) + start]
            # Lines of a rank that is not allowed may branch where the allowed ones do not.
            forced = chain or self.allowed()
            if not chain and len(forced) > 1:
                break
            *skipped, last = forced
            if skipped:
                self.ids += skipped
                self._states = [(node.skip(len(skipped)), lowest) for node, lowest in self._states]
            self.write(last)
        return self.ids[start:]
