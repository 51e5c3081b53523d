"""Check of one document against DocRED's format. It finds all breaches, and not the first only."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import Enum
from typing import Any

from lmrc.corpus.reading.values import as_index, as_relation, as_text, is_single_mention
from lmrc.corpus.relations import RelationSet, is_no_relation
from lmrc.corpus.types import Document, Entity, Label, Mention


class Kind(Enum):
    """A kind of breach: its name for one and for several, and if `lmrc.corpus.reading.fixes` can mend it."""

    FORM = ("key or value of another form", "keys or values of another form", False)
    VALUE = ("value of another type with a clear meaning", "values of another type with a clear meaning", True)
    MISSING = ("missing title, name or type", "missing titles, names or types", True)
    EMPTY_SPAN = ("empty span", "empty spans", True)
    SPAN = ("span outside of its sentence", "spans outside of their sentence", True)
    SENTENCE = ("mention in a sentence that does not exist", "mentions in sentences that do not exist", True)
    NO_MENTION = ("entity without mentions", "entities without mentions", True)
    NO_ENTITY = ("document without entities", "documents without entities", True)
    SELF = ("label of an entity with itself", "labels of entities with themselves", True)
    ENTITY = ("label of an entity that does not exist", "labels of entities that do not exist", True)
    EVIDENCE = ("evidence that does not exist", "labels with evidence that does not exist", True)
    NO_RELATION = ("label of no relation", "labels of no relation", True)
    RELATION_NAME = ("label with a name in place of an id", "labels with a name in place of an id", True)
    RELATION = ("label with an unknown relation", "labels with an unknown relation", False)
    TITLE = ("repeated title", "repeated titles", True)

    def __init__(self, singular: str, plural: str, fixable: bool) -> None:
        self.singular = singular
        self.plural = plural
        self.fixable = fixable


@dataclass(frozen=True, slots=True)
class Breach:
    """One breach of the format, in words for the user."""

    kind: Kind
    problem: str


def check_document(raw: object, relations: RelationSet | None) -> tuple[Document | None, list[Breach]]:
    """Return the checked document and no breaches, or None and all breaches.

    A mention, a label or a sentence has one breach at most, its first.

    Args:
        raw: the document, as JSON decodes it.
        relations: relation set of the labels; if it is None, labels are ignored.
    """
    breaches: list[Breach] = []
    if not isinstance(raw, dict):
        return None, [Breach(Kind.FORM, f"is {_describe(raw)}, expected an object with title, sents and vertexSet")]
    title = _get_or_note(raw, "title", str, breaches)
    sents = _get_or_note(raw, "sents", list, breaches)
    vertices = _get_or_note(raw, "vertexSet", list, breaches)
    sentences = [_sentence(tokens, index, breaches) for index, tokens in enumerate(sents or ())]
    lengths = [None if sentence is None else len(sentence) for sentence in sentences]
    if vertices is not None and not vertices:
        breaches.append(Breach(Kind.NO_ENTITY, "vertexSet is empty, expected at least one entity"))
    if sents is None or vertices is None:
        # An object without text and entities is no document, which a title would not change.
        return None, [
            Breach(Kind.FORM, breach.problem) if breach.kind is Kind.MISSING else breach for breach in breaches
        ]
    entities = [_entity(mentions, index, lengths, breaches) for index, mentions in enumerate(vertices)]
    labels: list[Label] | None = None
    # Without entities every label would be a breach too.
    if relations is not None and "labels" in raw and vertices:
        labels = []
        for index, label in enumerate(_get_or_note(raw, "labels", list, breaches) or ()):
            try:
                labels.append(_label(label, f"label {index}", len(entities), len(sentences), relations))
            except _Found as found:
                breaches.append(found.breach)
    if breaches:
        return None, breaches
    checked = tuple(sentence for sentence in sentences if sentence is not None)
    if labels is None:
        return Document(title, checked, tuple(entities), None), []
    unique = _merge(labels)
    return Document(title, checked, tuple(entities), unique, len(labels) - len(unique)), []


class _Found(Exception):
    """A breach in a part of a document, which ends the check of this part."""

    def __init__(self, kind: Kind, problem: str) -> None:
        super().__init__(problem)
        self.breach = Breach(kind, problem)


_JSON_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}


def _describe(value: object) -> str:
    name = _JSON_NAMES.get(type(value))
    return name if name is not None else f"the number {value}"


# Keys that `lmrc.corpus.reading.fixes` sets if they are missing.
_CAN_BE_SET = ("title", "name", "type")


def _get(raw: dict[str, Any], key: str, kind: type, context: str) -> Any:
    try:
        value = raw[key]
    except KeyError:
        raise _Found(Kind.MISSING if key in _CAN_BE_SET else Kind.FORM, f"{context}{key} is missing") from None
    # Not isinstance: True is an int in Python, but not in JSON.
    if type(value) is not kind:
        expected = "a whole number" if kind is int else _JSON_NAMES[kind]
        if value is None and key in _CAN_BE_SET:
            raise _Found(Kind.MISSING, f"{context}{key} is null, expected {expected}")
        clear = as_index(value) if kind is int else as_text(value) if kind is str else None
        # A number is a clear text, but it need not be a known relation.
        form = Kind.FORM if clear is None or key == "r" else Kind.VALUE
        raise _Found(form, f"{context}{key} is {_describe(value)}, expected {expected}")
    return value


def _get_or_note(raw: dict[str, Any], key: str, kind: type, breaches: list[Breach]) -> Any:
    """Return a value of the document; note a breach and return None if it is missing or of another type."""
    try:
        return _get(raw, key, kind, "")
    except _Found as found:
        breaches.append(found.breach)
        return None


def _merge(labels: list[Label]) -> tuple[Label, ...]:
    """Return the labels with equal ones (h, t, r) merged, with all their evidence."""
    merged: dict[tuple[int, int, str], Label] = {}
    for label in labels:
        key = (label.head, label.tail, label.relation)
        if key in merged:
            evidence = tuple(dict.fromkeys(merged[key].evidence + label.evidence))
            label = Label(*key, evidence)
        merged[key] = label
    return tuple(merged.values())


def _sentence(tokens: object, index: int, breaches: list[Breach]) -> tuple[str, ...] | None:
    if not isinstance(tokens, list):
        breaches.append(Breach(Kind.FORM, f"sentence {index} is {_describe(tokens)}, expected a list of tokens"))
        return None
    for position, token in enumerate(tokens):
        if type(token) is not str:
            problem = f"token {position} of sentence {index} is {_describe(token)}, expected a string"
            breaches.append(Breach(Kind.FORM if as_text(token) is None else Kind.VALUE, problem))
            break
    return tuple(tokens)


def _entity(mentions: object, index: int, lengths: list[int | None], breaches: list[Breach]) -> Entity:
    if not isinstance(mentions, list):
        problem = f"entity {index} is {_describe(mentions)}, expected a list of mentions"
        breaches.append(Breach(Kind.VALUE if is_single_mention(mentions) else Kind.FORM, problem))
        return ()
    if not mentions:
        breaches.append(Breach(Kind.NO_MENTION, f"entity {index} has no mentions, expected at least one"))
    entity = []
    for position, mention in enumerate(mentions):
        try:
            entity.append(_mention(mention, f"mention {position} of entity {index}", lengths))
        except _Found as found:
            breaches.append(found.breach)
    return tuple(entity)


def _mention(raw: object, description: str, lengths: list[int | None]) -> Mention:
    """Return the checked mention; `lengths` are those of the sentences, None if a sentence is malformed."""
    if not isinstance(raw, dict):
        problem = f"{description} is {_describe(raw)}, expected an object with name, sent_id, pos and type"
        raise _Found(Kind.FORM, problem)
    context = f"{description}: "
    # The position first: without it a missing name cannot be set.
    sentence = _get(raw, "sent_id", int, context)
    pos = _get(raw, "pos", list, context)
    name = _get(raw, "name", str, context)
    kind = _get(raw, "type", str, context)
    if not 0 <= sentence < len(lengths):
        problem = f"{context}sent_id is {sentence}, but the document has {len(lengths)} sentences"
        raise _Found(Kind.SENTENCE, problem)
    if len(pos) != 2 or type(pos[0]) is not int or type(pos[1]) is not int:
        clear = len(pos) == 2 and all(type(bound) is int or as_index(bound) is not None for bound in pos)
        raise _Found(
            Kind.VALUE if clear else Kind.FORM, f"{context}pos is {pos}, expected two whole numbers [start, end)"
        )
    start, end = pos
    length = lengths[sentence]
    if length is not None and not 0 <= start < end <= length:
        raise _Found(
            Kind.EMPTY_SPAN if 0 <= start == end <= length else Kind.SPAN,
            f"{context}pos is [{start}, {end}], expected 0 <= start < end <= {length}, the length of sentence "
            f"{sentence}",
        )
    return Mention(name, sentence, start, end, kind)


def _label(raw: object, description: str, entities: int, sentences: int, relations: RelationSet) -> Label:
    if not isinstance(raw, dict):
        raise _Found(Kind.FORM, f"{description} is {_describe(raw)}, expected an object with h, t, r and evidence")
    context = f"{description}: "
    head, tail = _get(raw, "h", int, context), _get(raw, "t", int, context)
    if type(raw.get("r")) is int and as_relation(raw["r"], relations) is not None:
        raise _Found(Kind.VALUE, f"{context}r is {_describe(raw['r'])}, expected a string")
    relation = _get(raw, "r", str, context)
    # Data sets have no absent keys: null stands for one.
    evidence = [] if raw.get("evidence") is None else _get(raw, "evidence", list, context)
    for key, value in (("h", head), ("t", tail)):
        if not 0 <= value < entities:
            raise _Found(Kind.ENTITY, f"{context}{key} is {value}, but the document has {entities} entities")
    if head == tail:
        raise _Found(Kind.SELF, f"{context}h and t are both {head}, expected two different entities")
    if relation not in relations and is_no_relation(relation):
        raise _Found(Kind.NO_RELATION, f"{context}{relation!r} is no relation: pairs without one have no label")
    if relation not in relations and relation in relations.names:
        problem = f"{relation!r} is the name of {relations.id(relation)!r}, expected the id"
        raise _Found(Kind.RELATION_NAME, f"{context}{problem}")
    if relation not in relations:
        raise _Found(Kind.RELATION, f"{context}unknown relation {relation!r}{_suggest(relation, relations)}")
    for sentence in evidence:
        if type(sentence) is not int:
            problem = f"{context}evidence names {_describe(sentence)}, expected indices of sentences"
            raise _Found(Kind.FORM if as_index(sentence) is None else Kind.VALUE, problem)
        if not 0 <= sentence < sentences:
            problem = f"{context}evidence names the number {sentence}, but the document has {sentences} sentences"
            raise _Found(Kind.EVIDENCE, problem)
    return Label(head, tail, relation, tuple(evidence))


def _suggest(relation: str, relations: RelationSet) -> str:
    close = difflib.get_close_matches(relation, relations.ids, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]}?"
    known = ", ".join(relations.ids[:5]) + (", …" if len(relations) > 5 else "")
    return f"; the relation set has {len(relations)} ids: {known}"
