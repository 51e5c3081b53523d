"""The backends that find mentions, by name."""

from __future__ import annotations

from lmrc.common.errors import UserError
from lmrc.text.mentions import MentionFinder, TextMention


class GivenOnly:
    """Backend of `--mentions spans`: all texts bring their mentions."""

    summary = "mentions as given; those without an id are one entity if they have the same name"

    def find(self, text: str) -> list[TextMention]:
        """Raise UserError, because a text has no mentions."""
        raise UserError(
            "has no mentions, which --mentions spans expects: give "
            '"mentions": [{"start": 0, "end": 3, "type": "PER"}], '
            "or --mentions rules, spacy or gliner"
        )


def load_finder(name: str, model: str | None) -> MentionFinder:
    """Return what finds mentions in texts that bring none.

    Args:
        name: rules, spacy, gliner or spans.
        model: model of spacy or gliner; None: its default.

    Raises:
        UserError: the package or the model is missing. The message says how to install it.
    """
    # Imported here: spaCy and GLiNER are optional, and slow to import.
    if name == "spacy":
        from lmrc.text.spacy_mentions import SpacyFinder

        return SpacyFinder(model)
    if name == "gliner":
        from lmrc.text.gliner_mentions import GlinerFinder

        return GlinerFinder(model)
    if name == "rules":
        from lmrc.text.rules import RuleFinder

        return RuleFinder()
    return GivenOnly()
