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
_DOCRED = """
P6     head of government
P17    country
P19    place of birth
P20    place of death
P22    father
P25    mother
P26    spouse
P27    country of citizenship
P30    continent
P31    instance of
P35    head of state
P36    capital
P37    official language
P39    position held
P40    child
P50    author
P54    member of sports team
P57    director
P58    screenwriter
P69    educated at
P86    composer
P102   member of political party
P108   employer
P112   founded by
P118   league
P123   publisher
P127   owned by
P131   located in the administrative territorial entity
P136   genre
P137   operator
P140   religion
P150   contains administrative territorial entity
P155   follows
P156   followed by
P159   headquarters location
P161   cast member
P162   producer
P166   award received
P170   creator
P171   parent taxon
P172   ethnic group
P175   performer
P176   manufacturer
P178   developer
P179   series
P190   sister city
P194   legislative body
P205   basin country
P206   located in or next to body of water
P241   military branch
P264   record label
P272   production company
P276   location
P279   subclass of
P355   subsidiary
P361   part of
P364   original language of work
P400   platform
P403   mouth of the watercourse
P449   original network
P463   member of
P488   chairperson
P495   country of origin
P527   has part
P551   residence
P569   date of birth
P570   date of death
P571   inception
P576   dissolved, abolished or demolished
P577   publication date
P580   start time
P582   end time
P585   point in time
P607   conflict
P674   characters
P676   lyrics by
P706   located on terrain feature
P710   participant
P737   influenced by
P740   location of formation
P749   parent organization
P800   notable work
P807   separated from
P840   narrative location
P937   work location
P1001  applies to jurisdiction
P1056  product or material produced
P1198  unemployment rate
P1336  territory claimed by
P1344  participant of
P1365  replaces
P1366  replaced by
P1376  capital of
P1412  languages spoken, written or signed
P1441  present in work
P3373  sibling
"""

_ROWS = [line.split(maxsplit=1) for line in _DOCRED.strip().splitlines()]
DOCRED = RelationSet(ids=tuple(row[0] for row in _ROWS), names=tuple(row[1] for row in _ROWS))
