"""Relation sets: ids and names of the relations that documents are labeled with, in a fixed order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from lmrc.common.errors import UserError, nearest
from lmrc.common.files import reading


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


def read_relations(path: str | Path) -> RelationSet:
    """Read a relation set from a JSON file {id: name}, in the order of the file.

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
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not JSON ({error})") from None
    if not isinstance(raw, dict):
        raise UserError(f'{path}: expected an object of relation ids and names, such as {{"P17": "country"}}')
    if not raw:
        raise UserError(f'{path}: holds no relations; expected at least one, such as {{"P17": "country"}}')
    id_of_name: dict[str, str] = {}
    for relation, name in raw.items():
        if not isinstance(name, str) or not name.strip() or not relation.strip():
            raise UserError(f"{path}: relation {relation!r} has the name {name!r}; ids and names must be text")
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
