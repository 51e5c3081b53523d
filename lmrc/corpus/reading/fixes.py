"""Repair of documents that break DocRED's format (`lmrc data build --fix`).

Only breaches whose repair needs no guess are mended; parts that cannot be are left out. Everything else stays as it is
for the check, which refuses it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from lmrc.corpus.reading.names import mention_parts, named_end
from lmrc.corpus.reading.values import with_clear_values
from lmrc.corpus.relations import RelationSet, is_no_relation
from lmrc.corpus.types import UNTYPED


class Change(Enum):
    """A kind of change, in words for one and for several."""

    VALUE = ("value written in DocRED's form", "values written in DocRED's form")
    KEY = ("missing title, name or type set", "missing titles, names or types set")
    MOVED_END = ("inclusive end moved", "inclusive ends moved")
    SET_END = ("end of an empty span set", "ends of empty spans set")
    MENTION = ("mention left out", "mentions left out")
    ENTITY = ("entity left out", "entities left out")
    LABEL = ("label left out", "labels left out")
    EVIDENCE = ("list of evidence shortened", "lists of evidence shortened")
    TITLE = ("repeated title numbered", "repeated titles numbered")
    REPEAT = ("repeated document left out", "repeated documents left out")
    DOCUMENT = ("document without entities left out", "documents without entities left out")


@dataclass(frozen=True, slots=True)
class Fix:
    """One change of a document.

    Attributes:
        document: index of the document in its file.
        title: its title in the file.
        change: what was done.
        why: the breach.
        was: the part in the file.
        now: the part in the corpus; None if it was left out.
    """

    document: int
    title: object
    change: Change
    why: str
    was: object
    now: object = None

    def line(self) -> str:
        """Return the line of the file of changes, in JSON."""
        values = {
            "document": self.document,
            "title": self.title,
            "change": self.change.value[0],
            "why": self.why,
            "was": self.was,
            "now": self.now,
        }
        return json.dumps(values, ensure_ascii=False) + "\n"


class Fixer:
    """Repairs the documents of one file, in their order."""

    def __init__(self, relations: RelationSet, inclusive_ends: bool) -> None:
        """Remember titles from the first document on.

        Args:
            relations: relation set of the labels.
            inclusive_ends: positions are [first token, last token] in the whole file.
        """
        self._relations = relations
        self._inclusive_ends = inclusive_ends
        # Hashes of the documents by title.
        self._seen: dict[str, set[bytes]] = {}

    def fix(self, raw: Any, index: int) -> tuple[Any, list[Fix]]:
        """Return the repaired document, or None if it is left out, and the changes. `raw` is not changed."""
        if not isinstance(raw, dict):
            return raw, []
        part = _Part(index, raw.get("title"))
        raw, changes = with_clear_values(raw, self._relations)
        for change in changes:
            part.note(Change.VALUE, change.why, change.was, change.now)
        entities = self._entities(raw, part)
        if entities is not None:
            if raw.get("title") is None:
                raw = {**raw, "title": f"document {index}"}
                part.note(Change.KEY, "it has no title", None, raw["title"])
            if not entities:
                part.note(Change.DOCUMENT, "it has no entity", raw)
                return None, part.fixes
            indices = {old: new for new, old in enumerate(entities)}
            raw = self._with_labels({**raw, "vertexSet": list(entities.values())}, len(raw["vertexSet"]), indices, part)
        return self._with_unique_title(raw, part), part.fixes

    def _entities(self, raw: dict[str, Any], part: _Part) -> dict[int, Any] | None:
        """Return the entities that stay by their index in the file; None if their form is wrong."""
        entities, sentences = raw.get("vertexSet"), raw.get("sents")
        if type(entities) is not list or type(sentences) is not list:
            return None
        kept: dict[int, Any] = {}
        for number, entity in enumerate(entities):
            if type(entity) is not list:
                kept[number] = entity
                continue
            mentions = []
            for position, old in enumerate(entity):
                # A mention of another form stays for the check.
                is_object = type(old) is dict
                name = f"mention {position} of entity {number}"
                mention = self._mention(old, sentences, name, part) if is_object else old
                if not is_object or mention is not None:
                    mentions.append(mention)
            if mentions:
                kept[number] = mentions
            else:
                part.note(Change.ENTITY, f"entity {number} has no mention", entity)
        return kept

    def _mention(self, mention: Any, sentences: list[Any], name: str, part: _Part) -> Any:
        """Return the mention with a span in its sentence, or None."""
        sentence = mention.get("sent_id") if type(mention) is dict else None
        if type(sentence) is int and not 0 <= sentence < len(sentences):
            part.note(Change.MENTION, f"{name}: its sentence does not exist", mention)
            return None
        mention = self._with_keys(mention, sentences, name, part)
        parts = mention_parts(mention, sentences)
        if parts is None:
            return mention
        text, tokens, start, end = parts
        if self._inclusive_ends:
            moved = {**mention, "pos": [start, end + 1]}
            part.note(
                Change.MOVED_END, f"{name}: pos is [first token, last token] in this file", mention["pos"], moved["pos"]
            )
            return moved
        if 0 <= start < end <= len(tokens):
            return mention
        if 0 <= start == end and (named := named_end(text, tokens, start)) is not None:
            part.note(Change.SET_END, f"{name}: its name is there", mention["pos"], [start, named])
            return {**mention, "pos": [start, named]}
        why = "its span is empty, and its name is not there" if start == end else "its span is not in its sentence"
        part.note(Change.MENTION, f"{name}: {why}", mention)
        return None

    def _with_keys(self, mention: Any, sentences: list[Any], name: str, part: _Part) -> Any:
        """Return the mention with its tokens as its name and `UNTYPED` as its type, if it has none."""
        if type(mention) is not dict:
            return mention
        if mention.get("name") is None:
            # With an empty name only to get at the tokens.
            if (parts := mention_parts({**mention, "name": ""}, sentences)) is None:
                return mention
            _, tokens, start, end = parts
            end += self._inclusive_ends
            if 0 <= start < end <= len(tokens):
                mention = {**mention, "name": " ".join(tokens[start:end])}
                part.note(Change.KEY, f"{name} has no name, now its tokens", None, mention["name"])
            else:
                # It is left out for its span.
                return {**mention, "name": ""}
        if mention.get("type") is None:
            mention = {**mention, "type": UNTYPED}
            part.note(Change.KEY, f"{name} has no type", None, UNTYPED)
        return mention

    def _with_labels(self, raw: dict[str, Any], entities: int, indices: dict[int, int], part: _Part) -> dict[str, Any]:
        """Return the document with the labels that stay, and their entities renumbered.

        Args:
            raw: the document with the entities that stay.
            entities: number of entities in the file.
            indices: index of each entity that stays, by its index in the file.
        """
        labels = raw.get("labels")
        if type(labels) is not list:
            return raw
        kept = []
        for number, label in enumerate(labels):
            if type(label) is not dict or not all(type(label.get(key)) is int for key in ("h", "t")):
                kept.append(label)
                continue
            head, tail = label["h"], label["t"]
            if not (0 <= head < entities and 0 <= tail < entities):
                part.note(Change.LABEL, f"label {number}: an entity of it does not exist", label)
            elif head == tail:
                part.note(Change.LABEL, f"label {number}: h and t are the same entity", label)
            elif self._is_none(label.get("r")):
                part.note(Change.LABEL, f"label {number}: {label['r']!r} is no relation", label)
            elif head not in indices or tail not in indices:
                part.note(Change.LABEL, f"label {number}: an entity of it was left out", label)
            else:
                fixed = {**label, "h": indices[head], "t": indices[tail]}
                kept.append(_with_evidence(fixed, raw["sents"], number, part))
        return {**raw, "labels": kept}

    def _is_none(self, relation: Any) -> bool:
        return type(relation) is str and relation not in self._relations and is_no_relation(relation)

    def _with_unique_title(self, raw: Any, part: _Part) -> Any:
        """Return the document with a title that is new, or None if the same document came before."""
        title = raw.get("title")
        if type(title) is not str:
            return raw
        digest = hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).digest()
        known = self._seen.setdefault(title, set())
        if digest in known:
            part.note(Change.REPEAT, "an equal document came before", {"title": title})
            return None
        first = not known
        known.add(digest)
        if first:
            return raw
        number = len(known)
        while (new := f"{title} ({number})") in self._seen:
            number += 1
        self._seen[new] = {digest}
        part.note(Change.TITLE, "another document has the same title", title, new)
        return {**raw, "title": new}


@dataclass
class _Part:
    """The changes of one document."""

    index: int
    title: object

    def __post_init__(self) -> None:
        self.fixes: list[Fix] = []

    def note(self, change: Change, why: str, was: object, now: object = None) -> None:
        self.fixes.append(Fix(self.index, self.title, change, why, was, now))


def _with_evidence(label: dict[str, Any], sentences: list[Any], number: int, part: _Part) -> dict[str, Any]:
    evidence = label.get("evidence")
    if type(evidence) is not list:
        return label
    inside = [sentence for sentence in evidence if type(sentence) is not int or 0 <= sentence < len(sentences)]
    if len(inside) == len(evidence):
        return label
    part.note(Change.EVIDENCE, f"label {number}: it names sentences that do not exist", evidence, inside)
    return {**label, "evidence": inside}


def fixed(
    documents: Iterable[Any], relations: RelationSet, inclusive_ends: bool
) -> Iterator[tuple[int, Any, list[Fix]]]:
    """Yield index in the file, repaired document (None if it is left out) and changes of each document."""
    fixer = Fixer(relations, inclusive_ends)
    for index, raw in enumerate(documents):
        yield index, *fixer.fix(raw, index)


def summary(counts: Counter[Change]) -> str:
    """Return the counts of the changes in one line, such as "2 labels left out, 1 mention left out"."""
    return ", ".join(f"{count:,} {change.value[count != 1]}" for change, count in counts.most_common())
