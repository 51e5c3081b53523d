"""Mentions by a GLiNER model, an optional package: it finds entities of any types that are given as words."""

from __future__ import annotations

from collections.abc import Iterator

from lmrc.common.errors import UserError
from lmrc.corpus.text import TokenizedText, tokenize
from lmrc.text.mentions import TextMention

DEFAULT = "urchade/gliner_medium-v2.1"
# Words for the types of DocRED.
LABELS = ("person", "organization", "location", "date", "number", "miscellaneous")
# GLiNER cuts longer texts (at 384 words, punctuation included), so it gets parts of this many tokens.
TOKENS = 250


class GlinerFinder:
    """Finds mentions by a GLiNER model (`lmrc.text.mentions.MentionFinder`)."""

    def __init__(self, name: str | None) -> None:
        """Load a model: a folder, or a name on the hub.

        Raises:
            UserError: GLiNER is not installed, or the model cannot be loaded.
        """
        name = name or DEFAULT
        try:
            from gliner import GLiNER
        except ImportError:
            raise UserError(
                "--mentions gliner needs the package gliner, which is not installed: pip install 'lmrc-suite[gliner]'"
            ) from None
        try:
            self._model = GLiNER.from_pretrained(name)
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"--mentions gliner: {name} cannot be loaded ({reason}): give a folder with a model as --mentions-model"
            ) from None
        self.summary = f"mentions by GLiNER's {name}; the same name is the same entity, pronouns are not resolved"

    def find(self, text: str) -> list[TextMention]:
        """Return the mentions of a text, sorted by position and without overlaps."""
        mentions: list[TextMention] = []
        for start, end in _parts(tokenize(text)):
            for entity in self._model.predict_entities(text[start:end], list(LABELS)):
                mentions.append(TextMention(start + entity["start"], start + entity["end"], entity["label"]))
        mentions.sort(key=lambda mention: (mention.start, -mention.end))
        kept: list[TextMention] = []
        for mention in mentions:
            if not kept or kept[-1].end <= mention.start:
                kept.append(mention)
        return kept


def _parts(text: TokenizedText) -> Iterator[tuple[int, int]]:
    """Yield spans of whole sentences of at most `TOKENS` tokens. A longer sentence is divided."""
    part: list[tuple[int, int]] = []
    for sentence in text.spans:
        for begin in range(0, len(sentence), TOKENS):
            piece = sentence[begin : begin + TOKENS]
            if part and len(part) + len(piece) > TOKENS:
                yield part[0][0], part[-1][1]
                part = []
            part += piece
    if part:
        yield part[0][0], part[-1][1]
