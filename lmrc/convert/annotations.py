"""The common form of all formats: mentions at characters, entities and relations of one document."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Container, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

from lmrc.corpus.text import TokenizedText
from lmrc.corpus.types import UNTYPED, Document, Label, Mention

# Characters [start, end) of a text.
Span = tuple[int, int]


@dataclass(frozen=True)
class RawMention:
    """One occurrence of an entity: its parts in the text, ascending. More than one: it is discontinuous."""

    parts: tuple[Span, ...]
    type: str


@dataclass(frozen=True)
class RawRelation:
    """A relation between two keys of `Annotations.entities`; the sentences of `mentions` are its evidence."""

    head: Hashable
    tail: Hashable
    name: str
    mentions: tuple[int, ...] = ()


@dataclass
class Annotations:
    """Annotations of one document.

    Attributes:
        title: Title of the document.
        remarks: Counts what is not carried over as it stands, by a phrase for the user.
        mentions: Mentions in any order.
        entities: Indices of the mentions of each entity, by a key of the format.
        relations: Relations between the entities.
        is_labeled: False if the format has no relations at all.
    """

    title: str
    remarks: Counter[str]
    mentions: list[RawMention] = field(default_factory=list)
    entities: dict[Hashable, list[int]] = field(default_factory=dict)
    relations: list[RawRelation] = field(default_factory=list)
    is_labeled: bool = True

    def add_mention(self, parts: Iterable[Span], type: str) -> int:
        """Add a mention, which is in no entity yet, and return its index."""
        self.remarks[f"mentions without a type, now {UNTYPED}"] += not type.strip()
        self.mentions.append(RawMention(tuple(sorted(parts)), type.strip() or UNTYPED))
        return len(self.mentions) - 1

    def add_to_entity(self, entity: Hashable, mention: int) -> None:
        """Add a mention to an entity, which begins with its first mention."""
        self.entities.setdefault(entity, []).append(mention)

    def parts(self) -> list[Span]:
        """Return the parts of all mentions."""
        return [part for mention in self.mentions for part in mention.parts]

    def to_document(self, text: TokenizedText) -> Document | None:
        """Return the document, or None, which is counted, if it has no entity.

        Args:
            text: The text; a token ends at each end of a part of a mention.
        """
        text = self._join_sentences(text)
        placed = [self._place(text, mention) for mention in self.mentions]
        entities: list[tuple[Mention, ...]] = []
        indices: dict[Hashable, int] = {}
        for key, numbers in self.entities.items():
            found: dict[tuple[int, int, int], Mention] = {}
            for mention in (placed[number] for number in numbers):
                if mention is not None:
                    position = (mention.sentence, mention.start, mention.end)
                    self.remarks["repeated mentions kept once"] += position in found
                    found.setdefault(position, mention)
            if found:
                indices[key] = len(entities)
                entities.append(tuple(found[position] for position in sorted(found)))
            else:
                self.remarks["entities without a mention left out"] += 1
        labels = self._labels(indices, placed)
        if not entities:
            self.remarks["documents without an entity left out"] += 1
            return None
        return Document(self.title, text.sentences, tuple(entities), labels if self.is_labeled else None)

    def _join_sentences(self, text: TokenizedText) -> TokenizedText:
        """Return the text without empty sentences, and without the ends of sentences inside of a mention's part."""
        spans = [sentence for sentence in text.spans if sentence]
        self.remarks["empty sentences left out"] += len(text.spans) - len(spans)
        starts = [sentence[0][0] for sentence in spans]
        joined = {
            index
            for start, end in self.parts()
            for index in range(max(1, bisect_left(starts, start + 1)), bisect_left(starts, end))
        }
        self.remarks["sentences joined with the one before, as a mention is in both"] += len(joined)
        sentences: list[tuple[Span, ...]] = []
        for index, sentence in enumerate(spans):
            if index in joined:
                sentences[-1] += sentence
            else:
                sentences.append(sentence)
        return TokenizedText(text.text, tuple(sentences))

    def _place(self, text: TokenizedText, mention: RawMention) -> Mention | None:
        """Return a mention at its tokens. One of several parts gets all tokens from the first part to the last."""
        first, last = mention.parts[0][0], max(end for _, end in mention.parts)
        longest = max(mention.parts, key=lambda part: part[1] - part[0])
        several = len(mention.parts) > 1
        phrases = {
            (first, last): "discontinuous mentions, now with the words between their parts",
            longest: "discontinuous mentions over several sentences, now their longest part",
        }
        for (start, end), phrase in phrases.items():
            try:
                found = text.mention(start, end, mention.type, " ".join(text.text[start:end].split()))
            except ValueError:
                continue
            if several:
                self.remarks[phrase] += 1
            return found
        self.remarks["mentions without a word left out"] += 1
        return None

    def _labels(self, indices: dict[Hashable, int], placed: Sequence[Mention | None]) -> tuple[Label, ...]:
        labels: dict[tuple[int, int, str], Label] = {}
        for relation in self.relations:
            if relation.head not in indices or relation.tail not in indices:
                self.remarks["relations of an entity without a mention left out"] += 1
            elif indices[relation.head] == indices[relation.tail]:
                self.remarks["relations of an entity with itself left out"] += 1
            elif not relation.name.strip():
                self.remarks["relations without a name left out"] += 1
            else:
                key = (indices[relation.head], indices[relation.tail], relation.name.strip())
                mentions = [placed[number] for number in relation.mentions]
                evidence = {mention.sentence for mention in mentions if mention is not None}
                if key in labels:
                    self.remarks["repeated relations kept once"] += 1
                    evidence.update(labels[key].evidence)
                labels[key] = Label(*key, tuple(sorted(evidence)))
        return tuple(labels.values())


class Groups:
    """Disjoint sets of things, joined pair by pair (union-find)."""

    def __init__(self) -> None:
        self._parents: dict[Hashable, Hashable] = {}

    def find(self, thing: Hashable) -> Hashable:
        """Return the representative of the set of a thing. A new thing is its own set."""
        root = thing
        while (parent := self._parents.setdefault(root, root)) != root:
            root = parent
        while thing != root:
            thing, self._parents[thing] = self._parents[thing], root
        return root

    def join(self, one: Hashable, other: Hashable) -> None:
        """Join the sets of two things. The representative of the first stays."""
        self._parents[self.find(other)] = self.find(one)


def lay_out(sentences: Iterable[Sequence[str]], glued: Container[int] = ()) -> TokenizedText:
    """Return tokens as a text with a space between two of them.

    Args:
        sentences: Tokens of each sentence.
        glued: Indices, in the document, of tokens without a space behind them.
    """
    text: list[str] = []
    spans: list[tuple[Span, ...]] = []
    position = index = 0
    for sentence in sentences:
        tokens = []
        for token in sentence:
            tokens.append((position, position + len(token)))
            gap = "" if index in glued else " "
            text += [token, gap]
            position += len(token) + len(gap)
            index += 1
        spans.append(tuple(tokens))
    return TokenizedText("".join(text), tuple(spans))


def locate(text: str, start: int, end: int, name: str, remarks: Counter[str]) -> Span | None:
    """Check that the characters [start, end) are the name of a mention, and return its span.

    White space counts alike, and an empty name is not checked. If they are not, the span is that of the nearest
    occurrence of the name, or if there is none, the given one. Both are counted. None, which is counted too, if the
    span is outside of the text.
    """
    inside = 0 <= start < end <= len(text)
    given, wanted = (" ".join(part.split()) for part in (text[start:end] if inside else "", name))
    if inside and wanted in (given, ""):
        return start, end
    if inside and text[start : end + 1] == name:
        remarks["mentions whose end is their last character, now the one behind it"] += 1
        return start, end + 1
    if not (inside and given.casefold() == wanted.casefold()) and (found := _nearest(text, name, start)):
        remarks["mentions whose name is not the text at their offsets, moved to its nearest occurrence"] += 1
        return found
    if inside and given:
        remarks["mentions whose name is not the text at their offsets"] += 1
        return start, end
    remarks["mentions outside of the text left out"] += 1
    return None


def _nearest(text: str, name: str, start: int) -> Span | None:
    """Return the occurrence of the name that begins nearest to `start`; one that is whole words goes first."""
    found = occurrences(text, name)
    # A short name may be part of any word.
    candidates = [span for span in found if is_whole(text, span)] or (found if len(name) > 2 else [])
    return min(candidates, key=lambda span: abs(span[0] - start), default=None)


def occurrences(text: str, name: str) -> list[Span]:
    """Return where a name occurs in a text; nowhere if it is blank."""
    found: list[Span] = []
    start = text.find(name) if name.strip() else -1
    while start >= 0:
        found.append((start, start + len(name)))
        start = text.find(name, start + len(name))
    return found


def is_whole(text: str, span: Span) -> bool:
    """Return True if the span neither begins nor ends inside of a word."""
    return not any(0 < bound < len(text) and text[bound - 1].isalnum() and text[bound].isalnum() for bound in span)
