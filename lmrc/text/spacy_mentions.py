"""Mentions by a pipeline of spaCy, an optional package."""

from __future__ import annotations

import re

from lmrc.common.errors import UserError
from lmrc.text.mentions import TextMention

DEFAULT = "en_core_web_sm"
_COREFERENCE = re.compile(r"coref_clusters|cluster")


class SpacyFinder:
    """Finds mentions by the named entities of a pipeline (`lmrc.text.mentions.MentionFinder`).

    Span groups of coreference clusters (coref_clusters_1, …) join mentions to entities.
    """

    def __init__(self, name: str | None) -> None:
        """Load a pipeline: a package or a folder.

        Raises:
            UserError: spaCy or the pipeline is not installed.
        """
        name = name or DEFAULT
        try:
            import spacy
        except ImportError:
            raise UserError(
                "--mentions spacy needs the package spacy, which is not installed: pip install 'lmrc-suite[spacy]', "
                f"then python -m spacy download {name}"
            ) from None
        try:
            self._nlp = spacy.load(name)
        except OSError:
            raise UserError(
                f"--mentions spacy: there is no pipeline {name}: python -m spacy download {name}, or give another one "
                "as --mentions-model (a package or a folder)"
            ) from None
        self.summary = f"mentions by spaCy's {name}; the same name is the same entity, unless it resolves coreference"

    def find(self, text: str) -> list[TextMention]:
        """Return the mentions of a text, sorted by position and without overlaps."""
        # The limit guards the memory of a parser; a text that is too long would be an error.
        self._nlp.max_length = max(self._nlp.max_length, len(text) + 1)
        doc = self._nlp(text)
        clusters = {
            (span.start_char, span.end_char): name
            for name, spans in doc.spans.items()
            if _COREFERENCE.match(name)
            for span in spans
        }
        mentions = []
        for entity in doc.ents:
            if any(character.isalnum() for character in entity.text):
                span = (entity.start_char, entity.end_char)
                mentions.append(TextMention(*span, entity.label_, clusters.get(span)))
        return mentions
