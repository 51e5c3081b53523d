"""Parsed templates of the synthetic corpus, and the document plans: which templates make up a document."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import cache

from lmrc.corpus.relations import DOCRED, RelationSet
from lmrc.corpus.synthetic import templates

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
        facts: facts that the sentence states.
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


def _part(token: str, words: dict[str, tuple[str, ...]]) -> str | Reference | Gendered | Choice:
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


def parse(line: str, words: dict[str, tuple[str, ...]]) -> Template:
    """Parse a template in the notation of `lmrc.corpus.synthetic.templates`.

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
def _parse_lines(text: str, trades: tuple[str, ...] = ()) -> tuple[Template, ...]:
    words = {**templates.WORDS, "trade": trades}
    return tuple(parse(line, words) for line in text.strip().splitlines())


@cache
def _biography(role: str) -> tuple[Template, ...]:
    lines = re.sub(r"\bX\b", role, templates.BIOGRAPHY).strip().splitlines()
    return tuple(parse(f"{line} | needs: {role}", templates.WORDS) for line in lines)


_PERSON_YEARS = {
    "birth": (0, 0),
    "grad": (19, 27),
    "wed": (22, 38),
    "date": (24, 45),
    "pub": (26, 45),
    "death": (48, 85),
}
_WORK_YEARS = {
    "born": (-50, -25),
    "wed": (-15, 10),
    "pub": (0, 0),
    "start": (0, 0),
    "date": (1, 20),
    "later": (2, 20),
    "died": (21, 45),
}


def _person(trade: str, works: str) -> DocumentPlan:
    asides = _parse_lines(templates.PERSON_ASIDES)
    return DocumentPlan(
        "person",
        (1840, 1940),
        _PERSON_YEARS,
        (
            (1.0, _parse_lines(templates.PERSON_INTRODUCTION, templates.TRADES[trade])),
            (0.75, _parse_lines(templates.PERSON_ORIGINS)),
            (0.45, asides),
            (0.7, _parse_lines(templates.PERSON_STUDIES)),
            (0.65, _parse_lines(templates.PERSON_WORK)),
            (0.45, asides),
            (0.65, _parse_lines(works)),
            (0.75, _parse_lines(templates.PERSON_FAMILY)),
            (0.4, _parse_lines(templates.PERSON_CHILDREN)),
            (0.3, asides),
            (0.6, _parse_lines(templates.PERSON_DEATH)),
        ),
    )


def _thing(subject: str, asides: str, *sections: tuple[float, str]) -> DocumentPlan:
    """Return a plan whose subject is not a person. A section that is a single word is a role: its biography is used."""
    parsed = [(probability, _parse_lines(text) if "\n" in text else _biography(text)) for probability, text in sections]
    aside = (0.6, _parse_lines(asides))
    half = len(parsed) // 2 + 1
    return DocumentPlan(subject, (1890, 1970), _WORK_YEARS, (*parsed[:half], aside, *parsed[half:], aside))


# Every entry is equally probable.
DOCUMENT_PLANS: tuple[DocumentPlan, ...] = (
    _person("writer", templates.WRITER_WORKS),
    _person("filmmaker", templates.FILMMAKER_WORKS),
    _person("singer", templates.SINGER_WORKS),
    _person("scholar", templates.WRITER_WORKS),
    _thing(
        "film",
        templates.WORK_ASIDES,
        (1.0, templates.FILM_INTRODUCTION),
        (0.7, templates.FILM_SCRIPT),
        (0.9, "director"),
        (0.8, "writer"),
        (0.6, templates.FILM_RELEASE),
        (0.7, "director"),
        (0.4, "writer"),
    ),
    _thing(
        "novel",
        templates.WORK_ASIDES,
        (1.0, templates.NOVEL_INTRODUCTION),
        (0.9, "author"),
        (0.8, "author"),
        (0.9, templates.NOVEL_AFTERLIFE),
        (0.7, "director"),
        (0.5, "author"),
    ),
    _thing(
        "song",
        templates.WORK_ASIDES,
        (1.0, templates.SONG_INTRODUCTION),
        (0.9, "performer"),
        (0.8, "performer"),
        (0.9, templates.SONG_RELEASE),
        (0.6, "performer"),
        (0.5, "singer"),
    ),
    _thing(
        "firm",
        templates.ORGANISATION_ASIDES,
        (1.0, templates.FIRM_INTRODUCTION),
        (0.6, templates.ORGANISATION_START),
        (0.8, templates.ORGANISATION_SEAT),
        (0.8, "founder"),
        (0.8, templates.FIRM_PEOPLE),
        (0.7, "worker"),
        (0.5, "founder"),
    ),
    _thing(
        "univ",
        templates.ORGANISATION_ASIDES,
        (1.0, templates.UNIVERSITY_INTRODUCTION),
        (0.5, templates.ORGANISATION_START),
        (0.8, templates.ORGANISATION_SEAT),
        (0.9, templates.UNIVERSITY_PEOPLE),
        (0.7, "pupil"),
        (0.7, "founder"),
        (0.5, "worker"),
    ),
    _thing(
        "band",
        templates.ORGANISATION_ASIDES,
        (1.0, templates.BAND_INTRODUCTION),
        (0.9, templates.BAND_SONGS),
        (0.9, "founder"),
        (0.8, "founder"),
        (0.8, "singer"),
        (0.5, "founder"),
    ),
    _thing(
        "town",
        templates.TOWN_ASIDES,
        (1.0, templates.TOWN_INTRODUCTION),
        (0.7, templates.TOWN_PLACE),
        (0.9, templates.TOWN_PEOPLE),
        (0.7, "native"),
        (0.7, templates.TOWN_FIRMS),
        (0.6, "dead"),
        (0.5, "founder"),
    ),
)
