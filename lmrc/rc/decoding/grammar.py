"""Which answers are possible: the pairs are known, so all that is open is which relations each of them has.

An answer is one line a relation, pairs in the order they were asked, every pair at least once, the relations of a pair
distinct and in the order of the relation set. No other entity, relation or form can be written.
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

# Any finished line: what follows it is tokenised behind it, so that ids are those of the whole answer.
_BEFORE = "(a| b| c)"


@dataclass(frozen=True, slots=True)
class _ParseState:
    """One way to read what was written: so far `read` tokens of the line of a pair and relation (or of the end)."""

    pair: int
    relation: int
    tokens: tuple[int, ...]
    read: int

    @property
    def next(self) -> int:
        return self.tokens[self.read]


class Grammar:
    """The possible answers to one query, as token ids."""

    def __init__(
        self,
        query: Query,
        document: Document,
        relations: RelationSet,
        kind: PromptKind,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        """`kind`: only a `direct` answer may say None, and `rcp-llm` ones Yes or No. `tokenizer`: that of the LM."""
        self._tokenizer = tokenizer
        self._names = [(entity_name(document, head), entity_name(document, tail)) for head, tail in query.pairs]
        answers = PROMPTS[kind].answer_set(relations)
        self._none = len(answers.relations.names) if answers.none_is_possible else None
        self._relations = [*answers.relations.names, *([answers.none] if answers.none_is_possible else [])]
        self._end = (int(tokenizer.eos_token_id),)
        self._before = self._ids([_BEFORE])[0]
        self._behind: dict[int, list[tuple[int, ...]]] = {}

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return ids

    def _texts(self, pair: int) -> list[str]:
        """The line of the pair for each relation."""
        head, tail = self._names[pair]
        return [line(head, relation, tail) for relation in self._relations]

    def _lines(self, pair: int, relations: Sequence[int]) -> Iterator[_ParseState]:
        """The beginnings of the lines, behind another one, that give `pair` one of `relations`."""
        if pair not in self._behind:
            # All of `_BEFORE` is cut off, unless the tokenizer joins a bracket with a new line.
            whole = self._ids([f"{_BEFORE}\n{text}" for text in self._texts(pair)])
            self._behind[pair] = [tuple(ids[shared_length([ids, self._before]) :]) for ids in whole]
        for relation in relations:
            yield _ParseState(pair, relation, self._behind[pair][relation], 0)

    def start(self) -> list[_ParseState]:
        """The readings of an empty answer."""
        return [_ParseState(0, relation, ids, 0) for relation, ids in enumerate(self.first_lines(0))]

    def first_lines(self, pair: int) -> list[tuple[int, ...]]:
        """Token ids of the line of the pair for each relation of the set (and None), at the start of an answer."""
        return [tuple(ids) for ids in self._ids(self._texts(pair))]

    @property
    def pairs(self) -> int:
        """Number of pairs asked for."""
        return len(self._names)

    @property
    def relations(self) -> int:
        """Number of relations of the set; None is not one of them."""
        return len(self._relations) - (self._none is not None)

    def next_lines(self, pair: int, relations: Sequence[int]) -> list[tuple[int | None, tuple[int, ...]]]:
        """What may be written behind the lines that give `pair` these relations, at the start of an answer.

        Each with the relation that it gives to the pair (the one after the last of the set is None), or None where it
        gives none to it: the line of the next pair, or the end.
        """
        if not relations:
            return list(enumerate(self.first_lines(pair)))
        following = self.after(pair, relations[-1])
        return [
            (reading.relation if reading.pair == pair and reading.relation >= 0 else None, reading.tokens)
            for reading in following
        ]

    def after(self, pair: int, relation: int) -> Iterator[_ParseState]:
        """What may follow a finished line: another relation of the pair, the next pair, or the end."""
        if relation != self._none:
            more = [other for other in range(relation + 1, len(self._relations)) if other != self._none]
            if more:
                yield from self._lines(pair, more)
        if pair + 1 < len(self._names):
            yield from self._lines(pair + 1, range(len(self._relations)))
        else:
            yield _ParseState(pair, -1, self._end, 0)


class PartialAnswer:
    """An answer being written: all readings of it that are still possible (two pairs may have the same names)."""

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._readings = grammar.start()
        self.ids: list[int] = []
        """What was written, the end of sequence included."""
        self.ended = False
        self._in_lines = 0

    def whole(self) -> list[int]:
        """What was written, without a line that was begun and not finished."""
        return self.ids if self.ended else self.ids[: self._in_lines]

    def allowed(self) -> list[int]:
        """The tokens that may come next, without repeats; not to be asked once it has ended."""
        return sorted({reading.next for reading in self._readings})

    def write(self, token: int) -> None:
        """Append one of the allowed tokens."""
        self.ids.append(token)
        going: list[_ParseState] = []
        for reading in self._readings:
            if reading.next != token:
                continue
            read = _ParseState(reading.pair, reading.relation, reading.tokens, reading.read + 1)
            if read.read < len(read.tokens):
                going.append(read)
            elif read.relation < 0:
                self.ended = True
            else:
                self._in_lines = len(self.ids)
                going.extend(self._grammar.after(read.pair, read.relation))
        self._readings = going

    def write_forced(self, most: int) -> list[int]:
        """Append tokens for as long as only one is allowed, at most `most`; returns them."""
        start = len(self.ids)
        while not self.ended and len(self.ids) - start < most:
            allowed = self.allowed()
            if len(allowed) > 1:
                break
            self.write(allowed[0])
        return self.ids[start:]
