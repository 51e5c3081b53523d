"""The synthetic corpus: documents in DocRED's terms about made-up people, places, organisations, works and dates.

A document tells of one subject (a person, film, novel, song, company, university, band or town) in five to nine
sentences drawn from the templates of `lmrc.corpus.synthetic.templates`. Document i is a pure function of (seed, i): a smaller
corpus is the beginning of a larger one, and any size is streamed. Names hardly ever recur between documents, so what
is learnt on one corpus and measured on another is reading, not memory.

What is labelled. Gold is complete: each triple of `RELATIONS` that the text states or that follows by these rules from
what it states, and no other. Evidence is the sentence that states a fact, plus, where that sentence has only a pronoun
or "the film" for the subject, the last sentence that names it; a fact that follows has the evidence of what it follows
from.

1. Spouses (P26) are each other's.
2. P40 child is the inverse of P22 father and P25 mother. Which of the two: the parent's first name and pronoun tell.
3. What lies in a province (P131) of a country (P17) lies in the country.
4. An organisation is of the country (P17) that its headquarters (P159) are in.
5. Places of birth, death and headquarters are the most specific ones that the text names, not what these lie in.
6. P17 and P131 are relations of places and, by rule 4, organisations. "A native of" states a birthplace, and "a
   Torvanian writer" or "a writer from Torvania" a citizenship (the adjective is a mention of the country). Meeting,
   visiting, living, lecturing as a guest, receiving prizes and the like state none of `RELATIONS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from lmrc.common.errors import UserError
from lmrc.corpus.synthetic.names import Name, Namer, Tokens, pick
from lmrc.corpus.synthetic.story_plans import DOCUMENT_PLANS, RELATIONS, Form, Gendered, Reference, Template
from lmrc.corpus.types import Document, Label, Mention, Triple

__all__ = ["RELATIONS", "generate"]

_FEWEST_SECTIONS = 6
_PRONOUN_SHARE = 0.85
_FULL_NAME_SHARE = 0.2
_PRONOUN = {Form.SUBJECT: 0, Form.POSSESSIVE: 1, Form.OBJECT: 2}


def generate(documents: int, seed: int) -> Iterator[Document]:
    """The first `documents` documents of the endless corpus of `seed`, made as they are asked for.

    Raises UserError where `documents` is negative.
    """
    if documents < 0:
        raise UserError(f"cannot make {documents} synthetic documents; give 0 or more")
    return (_document(index, seed) for index in range(documents))


def _document(index: int, seed: int) -> Document:
    # Random hashes a string with SHA-512, so that neighbouring documents and seeds have nothing in common.
    random = Random(f"{seed}:{index}")
    draft = _Draft(random)
    sections = draft.plot.sections
    chosen = [random.random() < share for share, _ in sections]
    while sum(chosen) < _FEWEST_SECTIONS:
        chosen[int(random.random() * len(chosen))] = True
    for (_, bank), wanted in zip(sections, chosen, strict=True):
        if wanted:
            draft.add_one_of(bank)
    triples = _follow(draft.triples, draft.names)
    ordered = sorted(triples, key=lambda triple: (triple[0], triple[1], RELATIONS.index(triple[2])))
    labels = tuple(
        Label(head, tail, relation, tuple(sorted(triples[Triple(head, tail, relation)])))
        for head, tail, relation in ordered
    )
    return Document(
        title=f"{' '.join(draft.names[draft.roles['S']].full)} ({index + 1})",
        sentences=tuple(draft.sentences),
        entities=tuple(tuple(mentions) for mentions in draft.mentions),
        labels=labels,
    )


class _Draft:
    """A document while it is written. Entities are numbered by first mention."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._namer = Namer(random)
        self.plot = pick(random, DOCUMENT_PLANS)
        first, last = self.plot.start
        self._start = first + int(random.random() * (last - first + 1))
        self._written: set[int] = set()
        self._stated: set[tuple[str, ...]] = set()
        self.roles: dict[str, int] = {}
        self.names: list[Name] = []
        self.mentions: list[list[Mention]] = []
        self.sentences: list[Tokens] = []
        self.triples: dict[Triple, set[int]] = {}

    def add_one_of(self, bank: tuple[Template, ...]) -> None:
        """Adds a sentence of a bank that neither repeats nor contradicts what was said; nothing where none is left."""
        start = int(self._random.random() * len(bank))
        for template in bank[start:] + bank[:start]:
            if (
                id(template) not in self._written
                and template.needs <= self.roles.keys()
                and self._stated.isdisjoint(template.states)
            ):
                self._written.add(id(template))
                self._stated |= template.states
                self._add(template)
                return

    def _add(self, template: Template) -> None:
        number = len(self.sentences)
        tokens: list[str] = []
        for part in template.parts:
            if isinstance(part, str):
                tokens.append(part)
            elif isinstance(part, Reference):
                self._refer(part, tokens)
            elif isinstance(part, Gendered):
                tokens.append(part.man if self.names[self._entity(part.role)].man else part.woman)
            else:
                tokens += pick(self._random, part.phrases)
        tokens[0] = _capitalised(tokens[0])
        self.sentences.append(tuple(tokens))
        for head_role, relation, tail_role in template.facts:
            head, tail = self.roles[head_role], self.roles[tail_role]
            evidence = self.triples.setdefault(Triple(head, tail, relation), set())
            evidence.update((number, self.mentions[head][-1].sentence, self.mentions[tail][-1].sentence))

    def _refer(self, part: Reference, tokens: list[str]) -> None:
        """Appends a mention to the tokens of the next sentence and notes it, or appends a pronoun."""
        entity = self._entity(part.role)
        name, mentions = self.names[entity], self.mentions[entity]
        if part.role == "S" and mentions and part.form in _PRONOUN and self._may_be_pronoun(entity):
            tokens += name.pronouns[_PRONOUN[part.form]]
            return
        if part.form is Form.AT:
            tokens += name.preposition
        mention = name.full
        if part.form is Form.ADJECTIVE:
            mention = name.adjective
        elif mentions and self._random.random() >= _FULL_NAME_SHARE:
            mention = name.short
        if mention is name.full:
            tokens += name.article
        if not tokens:
            mention = (_capitalised(mention[0]), *mention[1:])
        start, end = len(tokens), len(tokens) + len(mention)
        mentions.append(Mention(" ".join(mention), len(self.sentences), start, end, name.type))
        tokens += mention
        if part.form is Form.POSSESSIVE:
            tokens.append("'s")

    def _may_be_pronoun(self, subject: int) -> bool:
        """Whether a pronoun is wanted and could not mean another entity of the sentence before."""
        pronouns = self.names[subject].pronouns
        if not pronouns or self._random.random() >= _PRONOUN_SHARE:
            return False
        previous = len(self.sentences) - 1
        return not any(
            mentions and mentions[-1].sentence == previous and name.pronouns == pronouns and entity != subject
            for entity, (name, mentions) in enumerate(zip(self.names, self.mentions, strict=True))
        )

    def _entity(self, role: str) -> int:
        """The entity that plays a role, named now if it is new."""
        entity = self.roles.get(role)
        if entity is None:
            name = self._name(role)
            entity = self.roles[role] = len(self.names)
            self.names.append(name)
            self.mentions.append([])
        return entity

    def _name(self, role: str) -> Name:
        kind, _, of = role.partition(".")
        kind = kind.rstrip("0123456789")
        if kind in ("S", "person"):
            kind = self.plot.subject
        if kind in ("spouse", "mate", "father", "mother", "child"):
            relative = self.names[self.roles[of or "S"]]
            if kind in ("spouse", "mate"):
                return self._namer.person(man=not relative.man)
            if kind == "mother":
                return self._namer.person(man=False)
            if kind == "father":
                return self._namer.person(man=True, surname=relative.short)
            # A child has the surname of the father, where he is known.
            married = self.roles.get(f"mate.{of}" if of else "spouse")
            father = relative if relative.man else self.names[married] if married is not None else None
            return self._namer.person(self._random.random() < 0.5, surname=father.short if father else None)
        first, last = self.plot.years.get(kind, (0, 0))
        return self._namer.name(kind, self._start + first + int(self._random.random() * (last - first + 1)))


def _capitalised(token: str) -> str:
    return token[0].upper() + token[1:]


def _follow(stated: dict[Triple, set[int]], names: list[Name]) -> dict[Triple, set[int]]:
    """The stated triples and those that follow from them, with their evidence: rules 1 to 4 of this module."""
    known = {triple: set(evidence) for triple, evidence in stated.items()}
    for (head, tail, relation), evidence in stated.items():
        if relation == "P26":
            known.setdefault(Triple(tail, head, "P26"), set()).update(evidence)
        elif relation == "P40":
            known.setdefault(Triple(tail, head, "P22" if names[head].man else "P25"), set()).update(evidence)
        elif relation in ("P22", "P25"):
            known.setdefault(Triple(tail, head, "P40"), set()).update(evidence)
    countries = {head: tail for head, tail, relation in known if relation == "P17"}
    for link in ("P131", "P159"):
        # Places before organisations, which take their country from them.
        parts = [(part, whole) for part, whole, relation in known if relation == link]
        ways = parts + [(whole, part) for part, whole in parts] if link == "P131" else parts
        for _ in range(len(ways)):
            for target, source in ways:
                if source in countries and target not in countries:
                    country = countries[target] = countries[source]
                    part, whole = (target, source) if (target, source) in parts else (source, target)
                    evidence = known[Triple(part, whole, link)] | known[Triple(source, country, "P17")]
                    known[Triple(target, country, "P17")] = evidence
    return known
