"""Mentions in a text, and the interface of what finds them."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class TextMention:
    """A mention at the characters [start, end) of a text.

    Attributes:
        entity: key of its entity; None: `lmrc.text.coreference` finds the entity by the name.
    """

    start: int
    end: int
    type: str
    entity: Hashable = None


class MentionFinder(Protocol):
    """Finds the mentions of a text.

    Attributes:
        summary: one sentence for the user about what finds the mentions, and what it cannot.
    """

    summary: str

    def find(self, text: str) -> list[TextMention]:
        """Return the mentions of a text, sorted by position and without overlaps."""
        ...
