"""Parsed templates of the synthetic corpus, and the document plans: which templates make up a document."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lmrc.corpus.relations import DOCRED, RelationSet

_TEXTS: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("templates.yaml").read_text(encoding="utf-8"))

_IDS = (
    *("P17", "P19", "P20", "P22", "P25", "P26", "P27", "P40", "P50", "P57", "P58", "P69", "P108", "P112"),
    *("P131", "P159", "P175", "P569", "P570", "P571", "P577"),
)
RELATIONS = RelationSet(_IDS, tuple(DOCRED.name(relation) for relation in _IDS))

# Relations with one tail per head in a document; sentences that would state another tail are not used.
FUNCTIONAL = frozenset(RELATIONS.ids) - {"P40", "P69", "P108", "P175"}

_SLOT = re.compile(r"\{(?P<at>@?)(?P<role>[\w.]+)(?P<form>'s|:\w+)?(?:\?(?P<man>\w+)\|(?P<woman>\w+))?\}")


class Form(Enum):
    """Form of a mention in a template. The first three may be pronouns if the entity is the document's subject."""

    SUBJECT = ""
    POSSESSIVE = "'s"
    OBJECT = ":it"
    NAME = ":name"
    ADJECTIVE = ":adj"
    AT = "@"


@dataclass(frozen=True, slots=True)
class Reference:
    """A mention of the entity of a role."""

    role: str
    form: Form


@dataclass(frozen=True, slots=True)
class Gendered:
    """A literal word that depends on the sex of the person of a role."""

    role: str
    man: str
    woman: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A literal phrase, drawn from several. Each phrase is split into tokens."""

    phrases: tuple[tuple[str, ...], ...]


# Head role, relation id, tail role.
Fact = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Template:
    """A template of one sentence.

    Attributes:
        parts: parts of the sentence; a plain str is one token.
        states: keys that no earlier sentence may have stated: (head, relation) for a functional relation, otherwise the
            whole fact.
        needs: roles that must have been named before.
    """

    parts: tuple[str | Reference | Gendered | Choice, ...]
    facts: tuple[Fact, ...]
    states: frozenset[tuple[str, ...]]
    needs: frozenset[str]


@dataclass(frozen=True, slots=True)
class DocumentPlan:
    """A kind of document.

    Attributes:
        subject: kind of the subject, such as "film".
        start: first and last year in which the story may start.
        years: first and last year of each kind of date, relative to the start of the story.
        sections: sections in order: the probability that it is used, and the templates of which one is used.
    """

    subject: str
    start: tuple[int, int]
    years: dict[str, tuple[int, int]]
    sections: tuple[tuple[float, tuple[Template, ...]], ...]


def _part(token: str, words: Mapping[str, Sequence[str]]) -> str | Reference | Gendered | Choice:
    if token[0] == "<" and len(token) > 1:
        return Choice(tuple(tuple(phrase.split()) for phrase in words[token[1:-1]]))
    if token[0] != "{":
        return token
    slot = _SLOT.fullmatch(token)
    if slot is None:
        raise ValueError(f"not a slot: {token}")
    if slot["man"]:
        return Gendered(slot["role"], slot["man"], slot["woman"])
    return Reference(slot["role"], Form(slot["at"] or slot["form"] or ""))


def parse(line: str, words: Mapping[str, Sequence[str]]) -> Template:
    """Parse a template in the notation of templates.yaml.

    Raises:
        ValueError: the line breaks the notation.
        KeyError: it names an unknown list of words.
    """
    text, facts_text, needs_text = ([part.strip() for part in line.split(" | ")] + ["", ""])[:3]
    parts = tuple(_part(token, words) for token in text.split())
    if parts[-1] != ".":
        raise ValueError(f"not a sentence: {line}")
    roles = {part.role for part in parts if isinstance(part, Reference | Gendered)}
    facts = []
    for fact in filter(None, facts_text.split(", ")):
        head, relation, tail = fact.split()
        if not {head, tail} <= roles:
            raise ValueError(f"the fact {fact} has a role that its sentence does not name: {line}")
        facts.append((head, relation, tail))
    states = frozenset(fact[:2] if fact[1] in FUNCTIONAL else fact for fact in facts)
    return Template(parts, tuple(facts), states, frozenset(needs_text.removeprefix("needs:").split()))


@cache
def _parse_section(name: str, trade: str) -> tuple[Template, ...]:
    """Parse the sentences of this name, or the biography of this role if there are none."""
    words = {**_TEXTS["words"], "trade": _TEXTS["trades"].get(trade, ())}
    text = _TEXTS["sentences"].get(name)
    if text is not None:
        return tuple(parse(line, words) for line in text.splitlines())
    lines = re.sub(r"\bX\b", name, _TEXTS["biography"]).splitlines()
    return tuple(parse(f"{line} | needs: {name}", words) for line in lines)


def _plan(
    subject: str, start: list[int], years: dict[str, list[int]], sections: list[Any], trade: str = ""
) -> DocumentPlan:
    parsed = tuple((probability, _parse_section(name.format(trade=trade), trade)) for probability, name in sections)
    return DocumentPlan(
        subject, (start[0], start[1]), {kind: (first, last) for kind, (first, last) in years.items()}, parsed
    )


# Every entry is equally probable.
DOCUMENT_PLANS = tuple(_plan(**plan) for plan in _TEXTS["plans"])
