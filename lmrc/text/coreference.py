"""Coreference by names: which mentions of a text are one entity.

The same name is the same entity, if case, a leading "the", a possessive 's and periods do not count. A part of a
person's full name, such as the surname, is the last person before it with that part, and an acronym in brackets is the
name before it. Pronouns and descriptions ("the company") are not resolved.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Hashable, Sequence

from lmrc.text.mentions import TextMention

_LEADING = re.compile(r"^(the|a|an)\s+", re.IGNORECASE)
_POSSESSIVE = re.compile(r"['\u2019]s?$")
_BRACKET = re.compile(r"\s*\(\s*$")
# Words of a name that have no letter in its acronym.
_SMALL = frozenset(["of", "the", "and", "for", "in", "on", "de", "la", "du", "des", "der", "und"])
# Types of mentions that may be a part of a person's name: a backend may not know the type of a surname alone.
_PERSONS = ("PER", "PERSON", "MISC")


def normal_name(name: str) -> str:
    """Return a name such that spellings of one name are equal.

    >>> normal_name("The U.S.'s"), normal_name("Port  BLY")
    ('us', 'port bly')
    """
    plain = " ".join(unicodedata.normalize("NFKC", name).split())
    return _LEADING.sub("", _POSSESSIVE.sub("", plain)).replace(".", "").casefold().strip()


def grouped(text: str, mentions: Sequence[TextMention]) -> list[list[TextMention]]:
    """Return the mentions of each entity. Entities and mentions are sorted by position.

    Mentions with a key are one entity with those of the same key only.
    """
    entities: dict[Hashable, list[TextMention]] = {}
    # (last mention of the person, parts of the name)
    persons: dict[Hashable, frozenset[str]] = {}
    acronyms: dict[str, Hashable] = {}
    before: tuple[TextMention, Hashable] | None = None
    for mention in sorted(mentions, key=lambda mention: (mention.start, mention.end)):
        if mention.entity is not None:
            key: Hashable = ("given", mention.entity)
        else:
            name = normal_name(text[mention.start : mention.end])
            key = acronyms.get(name, ("name", name))
            if key not in entities:
                person = _person_with(name, mention, persons)
                expanded = _expanded(text, mention, before)
                if expanded is not None:
                    acronyms[name] = key = expanded
                elif person is not None:
                    key = person
            parts = name.split()
            if mention.type in ("PER", "PERSON") and len(parts) > 1:
                # The last one stands at the end.
                persons.pop(key, None)
                persons[key] = frozenset((parts[0], parts[-1]))
        entities.setdefault(key, []).append(mention)
        before = (mention, key)
    return list(entities.values())


def _person_with(name: str, mention: TextMention, persons: dict[Hashable, frozenset[str]]) -> Hashable:
    """Return the last person whose first name or surname is this name, or None."""
    if mention.type not in _PERSONS or " " in name:
        return None
    return next((key for key, parts in reversed(persons.items()) if name in parts), None)


def _expanded(text: str, mention: TextMention, before: tuple[TextMention, Hashable] | None) -> Hashable:
    """Return the entity right before a bracket with this mention, if the mention is its acronym; otherwise None."""
    if before is None or not _BRACKET.fullmatch(text[before[0].end : mention.start]):
        return None
    letters = text[mention.start : mention.end].replace(".", "")
    words = re.findall(r"\w+", text[before[0].start : before[0].end])
    initials = "".join(word[0] for word in words if word.lower() not in _SMALL)
    every = "".join(word[0] for word in words)
    return before[1] if len(letters) > 1 and letters.upper() in (initials.upper(), every.upper()) else None
