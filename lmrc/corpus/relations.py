"""Relation sets: ids and names of the relations that documents are labeled with, in a fixed order."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from lmrc.common.errors import UserError, nearest
from lmrc.common.file_kind import HEAD, describe_encoding, describe_start
from lmrc.common.files import reading

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RelationSet:
    """Relations in order. The index of a relation is its class in models.

    Attributes:
        ids: relation ids, such as "P17" [relations].
        names: their names, such as "country" [relations].
    """

    ids: tuple[str, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.names):
            raise ValueError(f"{len(self.ids)} relation ids but {len(self.names)} names")
        for kind, values in (("id", self.ids), ("name", self.names)):
            if len(set(values)) != len(values):
                duplicate = next(value for value in values if values.count(value) > 1)
                raise ValueError(f"the relation {kind} {duplicate!r} occurs twice")

    @cached_property
    def _index(self) -> dict[str, int]:
        return {relation: index for index, relation in enumerate(self.ids)}

    @cached_property
    def _id(self) -> dict[str, str]:
        return dict(zip(self.names, self.ids, strict=True))

    @cached_property
    def sha256(self) -> str:
        """Return the SHA-256 of ids and names in order, in hexadecimal. Equal sets have equal hashes."""
        text = json.dumps([self.ids, self.names], ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def index(self, relation: str) -> int:
        """Return the index of a relation id.

        Raises:
            UserError: it is unknown; the message names the most similar id.
        """
        try:
            return self._index[relation]
        except KeyError:
            self._unknown("relation", relation, self.ids)

    def name(self, relation: str) -> str:
        """Return the name of a relation id. Raises the same exception as `index`."""
        return self.names[self.index(relation)]

    def id(self, name: str) -> str:
        """Return the id of a relation name.

        Raises:
            UserError: it is unknown; the message names the most similar name.
        """
        try:
            return self._id[name]
        except KeyError:
            self._unknown("relation name", name, self.names)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __contains__(self, relation: object) -> bool:
        return relation in self._index

    @staticmethod
    def _unknown(kind: str, value: str, known: tuple[str, ...]) -> NoReturn:
        raise UserError(f"unknown {kind} {value!r}; {nearest(value, known)}")


# Names of "no relation" in the relation files of the field, in lower case.
_NO_RELATION = frozenset(["na", "n/a", "<na>", "none", "null", "no_relation", "no relation", "norelation"])
_EXPECTED = 'expected an object of relation ids and names, such as {"P17": "country"}, or of names and numbers (rel2id)'


def read_relations(path: str | Path) -> RelationSet:
    """Read a relation set from a JSON file: {id: name}, in the order of the file, or the field's rel2id or id2rel.

    rel2id.json is {name: number} (ATLOP and code that follows it), id2rel.json {number: name}; both may stand in one
    list (CasRel). A list of names is read too. Names become ids, in the order of the numbers. The entry of "no
    relation" is left out, and the log says so. If a name is a list of names (FewRel), the first one is taken.

    Raises:
        UserError: the file is unreadable or empty, has another form, or an id or name occurs twice.
    """

    def unique_ids(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len(dict(pairs)) != len(pairs):
            ids = [relation for relation, _ in pairs]
            duplicate = next(relation for relation in ids if ids.count(relation) > 1)
            raise UserError(f"{path}: the relation id {duplicate!r} occurs twice; every id must be unique")
        return dict(pairs)

    with reading(path) as stream:
        content = stream.read()
    try:
        raw = json.loads(content, object_pairs_hook=unique_ids)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: is not JSON ({error}): it {describe_start(content[:HEAD])}; {_EXPECTED}") from None
    except UnicodeDecodeError as error:
        text = describe_encoding(Path(path), error.start, content[error.start])
        raise UserError(f"{path}: {text}") from None
    if isinstance(raw, list) and raw and all(isinstance(name, str) for name in raw):
        return _of_numbers(dict(enumerate(raw)), path)
    if isinstance(raw, list) and len(raw) == 2 and all(isinstance(part, dict) for part in raw):
        raw = _of_two(raw, path)
    if not isinstance(raw, dict):
        raise UserError(f"{path}: {_EXPECTED}")
    if not raw:
        raise UserError(f'{path}: holds no relations; expected at least one, such as {{"P17": "country"}}')
    numbered = _numbered(raw, path)
    return _named(raw, path) if numbered is None else _of_numbers(numbered, path)


def is_no_relation(name: str) -> bool:
    """Return True if the name stands for "no relation" in files of the field: Na, no_relation, None."""
    return name.lower() in _NO_RELATION


def _numbered(raw: dict[str, object], path: str | Path) -> dict[int, str] | None:
    """Return the names of rel2id or id2rel by number, or None if the file has another form."""
    are_texts = any(type(value) is str for value in raw.values())
    # {"1": "2"} would be either way round.
    if all(_number(value) is not None for value in raw.values()) and not (are_texts and all(map(str.isdecimal, raw))):
        names: dict[int, str] = {}
        for name, value in raw.items():
            number = _number(value)
            assert number is not None
            if number in names:
                raise UserError(f"{path}: the relations {names[number]!r} and {name!r} both have the number {number}")
            names[number] = name
        return names
    # Ids that are numbers too may be meant in {id: name}, unless 0 is "no relation".
    if not is_no_relation(str(raw.get("0", ""))) or not all(key.isdecimal() for key in raw):
        return None
    if not all(isinstance(name, str) for name in raw.values()):
        return None
    return {int(number): str(name) for number, name in raw.items()}


def _number(value: object) -> int | None:
    """Return the number of a relation, which some files write as "1" or 1.0; None if it is none."""
    if type(value) is str and value.isdecimal():
        return int(value)
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def _of_two(parts: list[dict[str, object]], path: str | Path) -> dict[str, object]:
    """Return the {name: number} of a list of {number: name} and {name: number}, in any order.

    Raises:
        UserError: one is not the inverse of the other.
    """
    for numbers, names in (parts, parts[::-1]):
        numbered = {name: _number(value) for name, value in names.items()}
        if None not in numbered.values() and {str(number): name for name, number in numbered.items()} == numbers:
            return names
    raise UserError(f"{path}: holds a list of two objects, and one is not the inverse of the other; {_EXPECTED}")


def _of_numbers(names: dict[int, str], path: str | Path) -> RelationSet:
    ordered = [names[number] for number in sorted(names)]
    relations = [name for name in ordered if not is_no_relation(name)]
    for left_out in sorted(set(ordered) - set(relations)):
        logger.info(f"{path}: {left_out!r} is left out of the relation set: it stands for pairs without a relation")
    if not relations or not all(name.strip() for name in relations):
        raise UserError(f"{path}: holds no relations or one without a name; {_EXPECTED}")
    if len(set(relations)) != len(relations):
        duplicate = next(name for name in relations if relations.count(name) > 1)
        raise UserError(f"{path}: the relation {duplicate!r} occurs twice; every relation must be unique")
    if set(relations) <= set(DOCRED.ids):
        logger.info(f"{path}: its {len(relations)} relations are DocRED's and get DocRED's names")
        return RelationSet(tuple(relations), tuple(DOCRED.name(relation) for relation in relations))
    return RelationSet(tuple(relations), tuple(relations))


def _named(raw: dict[str, object], path: str | Path) -> RelationSet:
    id_of_name: dict[str, str] = {}
    listed = sum(isinstance(name, list) for name in raw.values())
    if listed:
        logger.info(f"{path}: {listed} of {len(raw)} relations have a list of names, of which the first is taken")
    for relation, name in raw.items():
        if isinstance(name, list) and name:
            name = name[0]
        if not isinstance(name, str) or not name.strip() or not relation.strip():
            raise UserError(
                f"{path}: relation {relation!r} has the name {json.dumps(name)[:60]}; ids and names must be text, or "
                "all values whole numbers (rel2id)"
            )
        if name in id_of_name:
            raise UserError(
                f"{path}: the relations {id_of_name[name]!r} and {relation!r} are both named {name!r}; "
                "names must be unique"
            )
        id_of_name[name] = relation
    return RelationSet(tuple(raw), tuple(id_of_name))


# The 96 relations of DocRED (Yao et al., 2019), by Wikidata property, in the order of its rel_info.json.
# Prompts and classes depend on the order: never change it.
DOCRED = read_relations(Path(__file__).with_name("docred_relations.json"))
