"""Grammar of the possible answers to a query.

The pairs are known, so an answer chooses only the relations of each pair. It has one line per relation. Pairs come in
the order of the query, each at least once. The relations of a pair are distinct and in the order of the relation set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from lmrc.config.schema import PromptKind
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document
from lmrc.rc.prompts.query_builder import Query, shared_length
from lmrc.rc.prompts.templates import PROMPTS, entity_name, line

# An arbitrary finished line. Later lines are tokenized after it, so that their ids are those within a whole answer.
_PREVIOUS_LINE = "(a| b| c)"
# Relation index of the end of sequence.
END = -1


@dataclass(frozen=True, slots=True)
class _ParseState:
    """A line that the answer may be in: the line of a pair and relation, or the end of sequence.

    Attributes:
        relation: index in the relation set; the index after the last one is None, and `END` the end of sequence.
        tokens: token ids of the line.
        position: number of tokens written so far.
    """

    pair: int
    relation: int
    tokens: tuple[int, ...]
    position: int

    @property
    def next_token(self) -> int:
        return self.tokens[self.position]


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
        self._previous_line = self._tokenize([_PREVIOUS_LINE])[0]
        self._later_lines: dict[int, list[tuple[int, ...]]] = {}

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return ids

    def _texts(self, pair: int) -> list[str]:
        """Return the line of the pair for each relation."""
        head, tail = self._names[pair]
        return [line(head, relation, tail) for relation in self._relations]

    def _line_states(self, pair: int, relations: Sequence[int]) -> Iterator[_ParseState]:
        """Yield the start of each line, after another line, that gives `pair` one of `relations`."""
        if pair not in self._later_lines:
            # shared_length, because a tokenizer may merge the last bracket with the newline.
            ids_of_lines = self._tokenize([f"{_PREVIOUS_LINE}\n{text}" for text in self._texts(pair)])
            self._later_lines[pair] = [tuple(ids[shared_length([ids, self._previous_line]) :]) for ids in ids_of_lines]
        for relation in relations:
            yield _ParseState(pair, relation, self._later_lines[pair][relation], 0)

    def start(self) -> list[_ParseState]:
        """Return the states of an empty answer."""
        return [_ParseState(0, relation, ids, 0) for relation, ids in enumerate(self.first_lines(0))]

    def first_lines(self, pair: int) -> list[tuple[int, ...]]:
        """Return the token ids of the pair's line for each relation (and None), at the start of an answer."""
        return [tuple(ids) for ids in self._tokenize(self._texts(pair))]

    @property
    def pair_count(self) -> int:
        """Number of pairs in the query."""
        return len(self._names)

    @property
    def relation_count(self) -> int:
        """Number of relations in the set, without None."""
        return len(self._relations) - (self._none is not None)

    def next_lines(self, pair: int, relations: Sequence[int]) -> list[tuple[int | None, tuple[int, ...]]]:
        """Return the lines that may follow if an answer starts with `relations` of `pair`.

        Returns:
            For each line the relation that it gives to the pair (the index after the last one is None), and its token
            ids. The relation is None for a line of the next pair and for the end of sequence.
        """
        if not relations:
            return list(enumerate(self.first_lines(pair)))
        return [
            (state.relation if state.pair == pair and state.relation != END else None, state.tokens)
            for state in self.after(pair, relations[-1])
        ]

    def after(self, pair: int, relation: int) -> Iterator[_ParseState]:
        """Yield what may follow a finished line: another relation of the pair, the next pair, or the end."""
        if relation != self._none:
            later = [other for other in range(relation + 1, len(self._relations)) if other != self._none]
            if later:
                yield from self._line_states(pair, later)
        if pair + 1 < len(self._names):
            yield from self._line_states(pair + 1, range(len(self._relations)))
        else:
            yield _ParseState(pair, END, self._end, 0)


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
        return sorted({state.next_token for state in self._states})

    def write(self, token: int) -> None:
        """Append one of the allowed tokens."""
        self.ids.append(token)
        states: list[_ParseState] = []
        for state in self._states:
            if state.next_token != token:
                continue
            position = state.position + 1
            if position < len(state.tokens):
                states.append(_ParseState(state.pair, state.relation, state.tokens, position))
            elif state.relation == END:
                self.ended = True
            else:
                self._complete_length = len(self.ids)
                states.extend(self._grammar.after(state.pair, state.relation))
        self._states = states

    def write_forced(self, max_tokens: int) -> list[int]:
        """Append tokens while only one is allowed, at most `max_tokens`, and return them."""
        start = len(self.ids)
        while not self.ended and len(self.ids) - start < max_tokens:
            allowed = self.allowed()
            if len(allowed) > 1:
                break
            self.write(allowed[0])
        return self.ids[start:]
