"""A document together with the text that it was made from, so that tokens have character spans."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lmrc.corpus.text import TokenizedText
from lmrc.corpus.types import Document, Mention

# Characters [start, end) of a text.
Span = tuple[int, int]


@dataclass(frozen=True)
class TextDocument:
    """A document and its text, with the same sentences and tokens."""

    document: Document
    text: TokenizedText

    def sentence_spans(self) -> tuple[Span, ...]:
        """Return the span of each sentence; that of an empty one is empty."""
        spans: list[Span] = []
        for sentence in self.text.spans:
            end = spans[-1][1] if spans else 0
            spans.append((sentence[0][0], sentence[-1][1]) if sentence else (end, end))
        return tuple(spans)

    def entity_spans(self) -> tuple[tuple[Span, ...], ...]:
        """Return the spans of the mentions of each entity."""
        return tuple(tuple(self._span(mention) for mention in entity) for entity in self.document.entities)

    def _span(self, mention: Mention) -> Span:
        sentence = self.text.spans[mention.sentence]
        return sentence[mention.start][0], sentence[mention.end - 1][1]


def with_single_spaces(document: Document) -> TextDocument:
    """Return a document whose text is unknown with the text of its tokens, joined with single spaces."""
    sentences: list[tuple[Span, ...]] = []
    length = 0
    for sentence in document.sentences:
        spans = []
        for token in sentence:
            spans.append((length, length + len(token)))
            length += len(token) + 1
        sentences.append(tuple(spans))
    return TextDocument(document, TokenizedText(" ".join(_tokens(document.sentences)), tuple(sentences)))


def _tokens(sentences: Iterable[Iterable[str]]) -> Iterable[str]:
    return (token for sentence in sentences for token in sentence)
