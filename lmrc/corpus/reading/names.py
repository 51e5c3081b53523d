"""Comparison of the names of mentions with the tokens at their positions."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from lmrc.corpus.types import Document

# Mentions that a message describes; it counts all of them.
EXAMPLES = 3
# Tokens of the Penn Treebank for brackets and quotation marks.
_TREEBANK = {
    "-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}", "``": '"', "''": '"',
}  # fmt: skip


def is_name(name: str, tokens: Sequence[str]) -> bool:
    """Return True if the tokens spell the name. White space, case and forms of one character do not count."""
    if " ".join(tokens) == name:
        return True
    spelled = "".join(_TREEBANK.get(token, token) for token in tokens)
    return _plain(spelled) == _plain("".join(_TREEBANK.get(word, word) for word in name.split()))


def named_end(name: str, tokens: Sequence[str], start: int) -> int | None:
    """Return the end of the tokens from `start` that spell the name, or None."""
    length = len(_plain("".join(_TREEBANK.get(word, word) for word in name.split())))
    spelled = 0
    for end in range(start + 1, len(tokens) + 1):
        spelled += len(_plain(_TREEBANK.get(tokens[end - 1], tokens[end - 1])))
        if spelled >= length:
            return end if is_name(name, tokens[start:end]) else None
    return None


class NameCounts:
    """Mentions whose name is the tokens at their position, and those whose name is not."""

    def __init__(self) -> None:
        self.mentions = 0
        self.different = 0
        # Mentions whose name is the tokens from start to end, the end included.
        self.inclusive = 0
        self._examples: list[str] = []

    @property
    def all_inclusive(self) -> bool:
        """Return True if positions are [first token, last token]: all names fit so, and not all fit [start, end)."""
        return self.inclusive == self.mentions and self.different > 0

    def add(self, document: Document, index: int) -> None:
        """Count the mentions of document `index` of its file."""
        for number, entity in enumerate(document.entities):
            for position, mention in enumerate(entity):
                where = (index, document.title, number, position)
                self._add(mention.name, document.sentences[mention.sentence], mention.start, mention.end, where)

    def add_raw(self, raw: Any, index: int) -> None:
        """Count the mentions of a document before the check. Mentions of another form are not counted."""
        if not isinstance(raw, dict) or type(raw.get("sents")) is not list or type(raw.get("vertexSet")) is not list:
            return
        sentences = raw["sents"]
        for number, entity in enumerate(raw["vertexSet"]):
            for position, mention in enumerate(entity if type(entity) is list else ()):
                parts = mention_parts(mention, sentences)
                if parts is not None:
                    self._add(*parts, (index, raw.get("title"), number, position))

    def warning(self, remedy: str) -> str | None:
        """Return the sentence for the user about names that are not the tokens, or None if all are.

        Args:
            remedy: what to do if all ends are inclusive.
        """
        if not self.different:
            return None
        examples = "; ".join(self._examples)
        text = (
            f"{self.different:,} of {self.mentions:,} mentions have a name that is not the tokens at their pos, such "
            f"as {examples}"
        )
        if self.all_inclusive:
            return f"{text}. All names fit if pos is [first token, last token]: {remedy}"
        fits = f" {self.inclusive:,} would fit if pos was [first token, last token]." if self.inclusive else ""
        return f"{text}.{fits} RCP marks the tokens at pos: check the positions"

    def _add(self, name: str, tokens: Sequence[str], start: int, end: int, where: tuple[int, object, int, int]) -> None:
        self.mentions += 1
        found = tokens[start:end]
        if 0 <= start < end <= len(tokens) and is_name(name, found):
            return
        self.different += 1
        if 0 <= start <= end < len(tokens) and is_name(name, tokens[start : end + 1]):
            self.inclusive += 1
        if len(self._examples) < EXAMPLES:
            index, title, number, position = where
            self._examples.append(
                f"{name!r} at [{start}, {end}] is {' '.join(found)!r} (document {index} ({title!r}), mention "
                f"{position} of entity {number})"
            )


def mention_parts(mention: Any, sentences: list[Any]) -> tuple[str, list[str], int, int] | None:
    """Return name, tokens of the sentence, start and end of a mention before the check; None if a form is wrong."""
    if type(mention) is not dict:
        return None
    name, sentence, pos = mention.get("name"), mention.get("sent_id"), mention.get("pos")
    if type(name) is not str or type(sentence) is not int or not 0 <= sentence < len(sentences):
        return None
    if type(pos) is not list or len(pos) != 2 or not all(type(bound) is int for bound in pos):
        return None
    tokens = sentences[sentence]
    if type(tokens) is not list or not all(type(token) is str for token in tokens):
        return None
    return name, tokens, pos[0], pos[1]


def count_names(documents: Iterable[Any]) -> NameCounts:
    """Return the counts of documents before the check."""
    counts = NameCounts()
    for index, raw in enumerate(documents):
        counts.add_raw(raw, index)
    return counts


def _plain(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())
