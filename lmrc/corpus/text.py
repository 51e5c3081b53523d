"""Plain text as sentences of tokens, with character spans."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from lmrc.corpus.types import Mention

_TOKEN = re.compile(r"\w+|[^\w\s]")
_CLOSING = frozenset("\"')]}\u201d\u2019\xbb")
# Words whose period rarely ends a sentence. Single letters (initials) count as such too.
_ABBREVIATIONS = frozenset(
    [
        "al",
        "approx",
        "dept",
        "dr",
        "e.g",
        "etc",
        "fig",
        "figs",
        "i.e",
        "jr",
        "mr",
        "mrs",
        "ms",
        "no",
        "nos",
        "prof",
        "sr",
        "st",
        "vol",
        "vs",
    ]
)


@dataclass(frozen=True)
class TokenizedText:
    """A text and its tokens.

    Attributes:
        text: The text.
        spans: Character span [start, end) of each token of each sentence.
    """

    text: str
    spans: tuple[tuple[tuple[int, int], ...], ...]

    @property
    def sentences(self) -> tuple[tuple[str, ...], ...]:
        """Return the tokens of each sentence."""
        return tuple(tuple(self.text[start:end] for start, end in sentence) for sentence in self.spans)

    @cached_property
    def _starts(self) -> list[int]:
        return [start for sentence in self.spans for start, _ in sentence]

    @cached_property
    def _positions(self) -> list[tuple[int, int]]:
        return [(index, token) for index, sentence in enumerate(self.spans) for token in range(len(sentence))]

    def mention(self, start: int, end: int, type: str, name: str | None = None) -> Mention:
        """Return the mention at the characters [start, end), which was among the `mentions` of `tokenize`.

        Args:
            name: Its name, if it is not the text of the span.

        Raises:
            ValueError: The span is outside of the text, has no token, or crosses the end of a sentence.
        """
        if not 0 <= start < end <= len(self.text):
            raise ValueError(f"characters {start} to {end} are not in the text, which has {len(self.text)}")
        first, last = bisect_left(self._starts, start), bisect_left(self._starts, end) - 1
        if last < first:
            raise ValueError(f"characters {start} to {end} are blank")
        sentence, token = self._positions[first]
        if self._positions[last][0] != sentence:
            raise ValueError(f"characters {start} to {end} are in two sentences")
        return Mention(name or self.text[start:end], sentence, token, self._positions[last][1] + 1, type)


def tokenize(text: str, mentions: Iterable[tuple[int, int]] = (), breaks: Iterable[int] = ()) -> TokenizedText:
    """Split a text into sentences and tokens (words and single punctuation marks).

    A sentence ends at a blank line, or at `.`, `!` or `?` before white space and something other than a lower-case
    letter, except after an abbreviation.

    Args:
        text: The text.
        mentions: Character spans. Tokens end at their bounds, and no sentence ends inside of one.
        breaks: Positions at which a sentence ends in any case, such as the end of a title.
    """
    mentions, forced = list(mentions), sorted(breaks)
    bounds = sorted({0, len(text), *forced, *(bound for span in mentions for bound in span if 0 < bound < len(text))})
    tokens = [
        (match.start(), match.end()) for start, end in pairwise(bounds) for match in _TOKEN.finditer(text, start, end)
    ]
    inside = {
        index
        for start, end in mentions
        for index in range(bisect_left(tokens, (start + 1, 0)), bisect_left(tokens, (end, 0)))
    }
    sentences: list[tuple[tuple[int, int], ...]] = []
    begun = 0
    for index in range(1, len(tokens) + 1):
        if index == len(tokens) or _begins_sentence(text, tokens, index, forced, index in inside):
            sentences.append(tuple(tokens[begun:index]))
            begun = index
    return TokenizedText(text, tuple(sentence for sentence in sentences if sentence))


def _begins_sentence(text: str, tokens: list[tuple[int, int]], index: int, forced: list[int], is_inside: bool) -> bool:
    """Return True if a sentence begins at this token, which is not the first."""
    (_, before), (start, _) = tokens[index - 1], tokens[index]
    if bisect_left(forced, before) < bisect_left(forced, start + 1):
        return True
    if is_inside:
        return False
    gap = text[before:start]
    if gap.count("\n") > 1:
        return True
    if not gap or text[start].islower():
        return False
    last = index - 1
    while last > 0 and text[tokens[last][0]] in _CLOSING:
        last -= 1
    mark = text[tokens[last][0] : tokens[last][1]]
    if mark != ".":
        return mark in ("!", "?")
    word = text[: tokens[last][0]].rsplit(None, 1)[-1:]
    return not (word and (word[0].lower().lstrip("(") in _ABBREVIATIONS or re.fullmatch(r"[A-Z]", word[0])))
