"""Documents made from texts and their mentions."""

from __future__ import annotations

from collections.abc import Sequence

from lmrc.corpus.text import tokenize
from lmrc.corpus.types import Document
from lmrc.text.coreference import grouped
from lmrc.text.entity_types import TypeMap
from lmrc.text.layout import TextDocument
from lmrc.text.mentions import TextMention


def document_of(title: str, text: str, mentions: Sequence[TextMention], types: TypeMap) -> TextDocument:
    """Return the document of a text. Without mentions it has no entities.

    Raises:
        ValueError: a mention is outside of the text, or blank.
    """
    tokenized = tokenize(text, [(mention.start, mention.end) for mention in mentions])
    entities = tuple(
        tuple(
            tokenized.mention(
                mention.start,
                mention.end,
                types.map(mention.type),
                " ".join(text[mention.start : mention.end].split()),
            )
            for mention in entity
        )
        for entity in grouped(text, mentions)
    )
    return TextDocument(Document(title, tokenized.sentences, entities, None), tokenized)
