"""Generator of synthetic DocRED documents about invented people, places, organizations, works and dates.

A document is about one subject (a person, film, novel, song, company, university, band or town), in five to nine
sentences made from templates.yaml. Document i is a pure function of (seed, i), so that documents can be streamed and a
smaller corpus is a prefix of a larger one. Names hardly ever recur between documents, so that a model cannot score by
memorizing them.

Gold labels are complete: every triple of `RELATIONS` that the text states or that follows from it by the rules below,
and no other. The evidence of a stated triple is its sentence. If that sentence mentions the subject only by a pronoun
or a phrase such as "the film", the last sentence that names the subject is evidence too. An inferred triple has the
evidence of the triples that it follows from.

1. P26 (spouse) is symmetric.
2. P40 (child) is the inverse of P22 (father) and P25 (mother). The parent's first name and pronoun decide which.
3. A place in a province (P131) of a country (P17) is in that country.
4. An organization is in the country (P17) of its headquarters (P159).
5. Places of birth, death and headquarters are the most specific ones that the text names.
6. P17 and P131 are relations of places and, by rule 4, of organizations. "A native of" states a place of birth. "A
   Torvanian writer" and "a writer from Torvania" state a citizenship; the adjective is a mention of the country.
   Meeting, visiting, living, lecturing as a guest, receiving prizes and the like state none of `RELATIONS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from lmrc.common.errors import UserError
from lmrc.corpus.synthetic.names import Name, Namer, Tokens, pick
from lmrc.corpus.synthetic.story_plans import DOCUMENT_PLANS, RELATIONS, Form, Gendered, Reference, Template
from lmrc.corpus.types import Document, Label, Mention, Triple

__all__ = ["RELATIONS", "generate"]

_MIN_SECTIONS = 6
_PRONOUN_SHARE = 0.85
_FULL_NAME_SHARE = 0.2
# Index into `Name.pronouns`.
_PRONOUN = {Form.SUBJECT: 0, Form.POSSESSIVE: 1, Form.OBJECT: 2}


def generate(documents: int, seed: int) -> Iterator[Document]:
    """Yield documents 0 to `documents` - 1 of the endless corpus of `seed`.

    Raises:
        UserError: `documents` is negative.
    """
    if documents < 0:
        raise UserError(f"cannot make {documents} synthetic documents; give 0 or more")
    return (_document(index, seed) for index in range(documents))


def _document(index: int, seed: int) -> Document:
    # Random hashes a string seed with SHA-512, so that neighboring documents and seeds are unrelated.
    random = Random(f"{seed}:{index}")
    draft = _Draft(random)
    sections = draft.plan.sections
    chosen = [random.random() < probability for probability, _ in sections]
    while sum(chosen) < _MIN_SECTIONS:
        chosen[int(random.random() * len(chosen))] = True
    for (_, templates), is_chosen in zip(sections, chosen, strict=True):
        if is_chosen:
            draft.add_one_of(templates)
    triples = _with_inferred(draft.triples, draft.names)
    ordered = sorted(triples, key=lambda triple: (triple.head, triple.tail, RELATIONS.index(triple.relation)))
    labels = tuple(Label(*triple, tuple(sorted(triples[triple]))) for triple in ordered)
    return Document(
        title=f"{' '.join(draft.names[draft.roles['S']].full)} ({index + 1})",
        sentences=tuple(draft.sentences),
        entities=tuple(tuple(mentions) for mentions in draft.mentions),
        labels=labels,
    )


class _Draft:
    """A document under construction. Entities are numbered by first mention.

    Attributes:
        roles: entity index of each role of the templates.
        triples: stated triples, with the indices of their evidence sentences.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._namer = Namer(random)
        self.plan = pick(random, DOCUMENT_PLANS)
        first, last = self.plan.start
        self._start_year = first + int(random.random() * (last - first + 1))
        self._used: set[int] = set()
        self._stated: set[tuple[str, ...]] = set()
        self.roles: dict[str, int] = {}
        self.names: list[Name] = []
        self.mentions: list[list[Mention]] = []
        self.sentences: list[Tokens] = []
        self.triples: dict[Triple, set[int]] = {}

    def add_one_of(self, templates: tuple[Template, ...]) -> None:
        """Add a sentence that neither repeats nor contradicts the text, if one of the templates gives any."""
        start = int(self._random.random() * len(templates))
        for template in templates[start:] + templates[:start]:
            if (
                id(template) not in self._used
                and template.needs <= self.roles.keys()
                and self._stated.isdisjoint(template.states)
            ):
                self._used.add(id(template))
                self._stated |= template.states
                self._add(template)
                return

    def _add(self, template: Template) -> None:
        sentence = len(self.sentences)
        tokens: list[str] = []
        for part in template.parts:
            if isinstance(part, str):
                tokens.append(part)
            elif isinstance(part, Reference):
                self._add_mention(part, tokens)
            elif isinstance(part, Gendered):
                tokens.append(part.man if self.names[self._entity(part.role)].man else part.woman)
            else:
                tokens += pick(self._random, part.phrases)
        tokens[0] = _capitalized(tokens[0])
        self.sentences.append(tuple(tokens))
        for head_role, relation, tail_role in template.facts:
            head, tail = self.roles[head_role], self.roles[tail_role]
            evidence = self.triples.setdefault(Triple(head, tail, relation), set())
            evidence.update((sentence, self.mentions[head][-1].sentence, self.mentions[tail][-1].sentence))

    def _add_mention(self, part: Reference, tokens: list[str]) -> None:
        """Append a mention to the tokens of the next sentence and to `mentions`, or append a pronoun."""
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
            mention = (_capitalized(mention[0]), *mention[1:])
        start, end = len(tokens), len(tokens) + len(mention)
        mentions.append(Mention(" ".join(mention), len(self.sentences), start, end, name.type))
        tokens += mention
        if part.form is Form.POSSESSIVE:
            tokens.append("'s")

    def _may_be_pronoun(self, subject: int) -> bool:
        """Return True if a pronoun is drawn and cannot mean another entity of the previous sentence."""
        pronouns = self.names[subject].pronouns
        if not pronouns or self._random.random() >= _PRONOUN_SHARE:
            return False
        previous = len(self.sentences) - 1
        return not any(
            mentions and mentions[-1].sentence == previous and name.pronouns == pronouns and entity != subject
            for entity, (name, mentions) in enumerate(zip(self.names, self.mentions, strict=True))
        )

    def _entity(self, role: str) -> int:
        """Return the entity of a role. A new one gets a name."""
        entity = self.roles.get(role)
        if entity is None:
            name = self._name(role)
            entity = self.roles[role] = len(self.names)
            self.names.append(name)
            self.mentions.append([])
        return entity

    def _name(self, role: str) -> Name:
        # Such as "father.director", the father of the director; relatives without a dot are the subject's.
        kind, _, person = role.partition(".")
        kind = kind.rstrip("0123456789")
        if kind in ("S", "person"):
            kind = self.plan.subject
        if kind in ("spouse", "mate", "father", "mother", "child"):
            relative = self.names[self.roles[person or "S"]]
            if kind in ("spouse", "mate"):
                return self._namer.person(man=not relative.man)
            if kind == "mother":
                return self._namer.person(man=False)
            if kind == "father":
                return self._namer.person(man=True, surname=relative.short)
            # A child has the surname of the father, if he is known.
            partner = self.roles.get(f"mate.{person}" if person else "spouse")
            father = relative if relative.man else self.names[partner] if partner is not None else None
            return self._namer.person(self._random.random() < 0.5, surname=father.short if father else None)
        first, last = self.plan.years.get(kind, (0, 0))
        return self._namer.name(kind, self._start_year + first + int(self._random.random() * (last - first + 1)))


def _capitalized(token: str) -> str:
    return token[0].upper() + token[1:]


def _with_inferred(stated: dict[Triple, set[int]], names: list[Name]) -> dict[Triple, set[int]]:
    """Return the stated triples and those inferred by rules 1 to 4 of this module, with their evidence."""
    triples = {triple: set(evidence) for triple, evidence in stated.items()}
    for (head, tail, relation), evidence in stated.items():
        if relation == "P26":
            triples.setdefault(Triple(tail, head, "P26"), set()).update(evidence)
        elif relation == "P40":
            triples.setdefault(Triple(tail, head, "P22" if names[head].man else "P25"), set()).update(evidence)
        elif relation in ("P22", "P25"):
            triples.setdefault(Triple(tail, head, "P40"), set()).update(evidence)
    countries = {head: tail for head, tail, relation in triples if relation == "P17"}
    for link in ("P131", "P159"):
        # Places first: organizations take their country from them.
        parts = [(part, whole) for part, whole, relation in triples if relation == link]
        edges = parts + [(whole, part) for part, whole in parts] if link == "P131" else parts
        for _ in range(len(edges)):
            for target, source in edges:
                if source in countries and target not in countries:
                    country = countries[target] = countries[source]
                    part, whole = (target, source) if (target, source) in parts else (source, target)
                    evidence = triples[Triple(part, whole, link)] | triples[Triple(source, country, "P17")]
                    triples[Triple(target, country, "P17")] = evidence
    return triples
