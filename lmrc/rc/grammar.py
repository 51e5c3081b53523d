"""Which answers are possible: the pairs are known, so all that is open is which relations each of them has.

An answer is one line a relation, pairs in the order they were asked, every pair at least once, the relations of a pair
distinct and in the order of the relation set. No other entity, relation or form can be written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from lmrc.corpus.docred import Document
from lmrc.corpus.relations import RelationSet
from lmrc.rc.examples import Query
from lmrc.rc.prompts import NONE, Kind, entity_name, line

# Any finished line: what follows it is tokenised behind it, so that ids are those of the whole answer.
_BEFORE = "(a| b| c)"


@dataclass(frozen=True, slots=True)
class _Reading:
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
        kind: Kind,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        """`kind`: only a `direct` answer may say None. `tokenizer`: that of the LM."""
        self._tokenizer = tokenizer
        self._names = [(entity_name(document, head), entity_name(document, tail)) for head, tail in query.pairs]
        self._none = len(relations.names) if kind == "direct" else None
        self._relations = [*relations.names, NONE] if kind == "direct" else list(relations.names)
        self._end = (int(tokenizer.eos_token_id),)
        self._before = self._ids([_BEFORE])[0]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return ids

    def _lines(self, pair: int, relations: Sequence[int], first: bool) -> Iterator[_Reading]:
        """The beginnings of the lines that give `pair` one of `relations`."""
        head, tail = self._names[pair]
        texts = [line(head, self._relations[relation], tail) for relation in relations]
        if first:
            behind = self._ids(texts)
        else:
            whole = self._ids([f"{_BEFORE}\n{text}" for text in texts])
            behind = [ids[_shared(ids, self._before) :] for ids in whole]
        for relation, ids in zip(relations, behind, strict=True):
            yield _Reading(pair, relation, tuple(ids), 0)

    def start(self) -> list[_Reading]:
        """The readings of an empty answer."""
        return list(self._lines(0, range(len(self._relations)), first=True))

    def after(self, pair: int, relation: int) -> Iterator[_Reading]:
        """What may follow a finished line: another relation of the pair, the next pair, or the end."""
        if relation != self._none:
            more = [other for other in range(relation + 1, len(self._relations)) if other != self._none]
            if more:
                yield from self._lines(pair, more, first=False)
        if pair + 1 < len(self._names):
            yield from self._lines(pair + 1, range(len(self._relations)), first=False)
        else:
            yield _Reading(pair, -1, self._end, 0)


class PartialAnswer:
    """An answer being written: all readings of it that are still possible (two pairs may have the same names)."""

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._readings = grammar.start()
        self.ids: list[int] = []
        """What was written, the end of sequence included."""
        self.ended = False

    def allowed(self) -> list[int]:
        """The tokens that may come next, without repeats; not to be asked once it has ended."""
        return sorted({reading.next for reading in self._readings})

    def write(self, token: int) -> None:
        """Append one of the allowed tokens."""
        self.ids.append(token)
        going: list[_Reading] = []
        for reading in self._readings:
            if reading.next != token:
                continue
            read = _Reading(reading.pair, reading.relation, reading.tokens, reading.read + 1)
            if read.read < len(read.tokens):
                going.append(read)
            elif read.relation < 0:
                self.ended = True
            else:
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


def _shared(ids: Sequence[int], before: Sequence[int]) -> int:
    """Length of the common beginning. All of `before`, unless the tokenizer joins a bracket with a new line."""
    count = 0
    while count < min(len(ids), len(before)) and ids[count] == before[count]:
        count += 1
    return count
