"""Entity types of taggers and users as the types that a model knows, such as those of DocRED."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

# Types of DocRED by names in other schemes: OntoNotes (spaCy), CoNLL, words (GLiNER). In lower case.
ALIASES = {
    "per": "PER", "person": "PER", "people": "PER",
    "org": "ORG", "organization": "ORG", "organisation": "ORG", "company": "ORG", "institution": "ORG",
    "loc": "LOC", "location": "LOC", "gpe": "LOC", "place": "LOC", "city": "LOC", "country": "LOC", "fac": "LOC",
    "facility": "LOC",
    "time": "TIME", "date": "TIME", "year": "TIME",
    "num": "NUM", "number": "NUM", "cardinal": "NUM", "ordinal": "NUM", "quantity": "NUM", "percent": "NUM",
    "money": "NUM",
    "misc": "MISC", "miscellaneous": "MISC", "norp": "MISC", "event": "MISC", "work_of_art": "MISC", "work": "MISC",
    "product": "MISC", "law": "MISC", "language": "MISC", "other": "MISC",
}  # fmt: skip


class TypeMap:
    """Maps entity types to those that a model knows, and counts what it changed.

    A known type stays. Otherwise it becomes the type of DocRED with the same meaning, if that is known, or MISC, if
    that is known. A model that reads no types knows all: then only names of DocRED's types are changed.

    Attributes:
        changed: number of mentions by (type, new type).
    """

    def __init__(self, known: Collection[str]) -> None:
        self._known = known
        self.changed: Counter[tuple[str, str]] = Counter()

    def map(self, type: str) -> str:
        """Return the type for the model."""
        new = self._new(type)
        if new != type:
            self.changed[type, new] += 1
        return new

    def _new(self, type: str) -> str:
        alias = ALIASES.get(type.strip().lower().replace(" ", "_"), type)
        if not self._known:
            return alias
        return next((name for name in (type, alias, "MISC") if name in self._known), type)

    def __str__(self) -> str:
        """Return a sentence for the user, or "" if no type was changed."""
        if not self.changed:
            return ""
        changes = (f"{count:,} {old} as {new}" for (old, new), count in self.changed.most_common())
        return f"entity types: {', '.join(changes)}"
