"""Values of another type than DocRED's whose meaning is clear: 1995 as a token, "0" as an index, a relation's name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from lmrc.corpus.relations import RelationSet

_DIGITS = re.compile(r"[0-9]{1,9}")


def as_text(value: object) -> str | None:
    """Return a whole number as text, or None if the value is something else.

    A number with a point has no clear text: JSON does not say if 19.5 was written 19.50.
    """
    return str(value) if type(value) is int else None


def as_index(value: object) -> int | None:
    """Return digits in text, or a number such as 2.0, as a whole number; None if the value is something else."""
    if type(value) is str:
        return int(value) if _DIGITS.fullmatch(value) else None
    return int(value) if type(value) is float and value.is_integer() else None


def as_relation(value: object, relations: RelationSet) -> str | None:
    """Return the id of a relation that is given by its name, or by an id as a number; None if there is none."""
    text = value if type(value) is str else as_text(value)
    if text is None:
        return None
    if text in relations.names:
        return relations.id(text)
    return text if text in relations and text is not value else None


def is_single_mention(entity: object) -> bool:
    """Return True if an entity is one mention without a list around it."""
    return type(entity) is dict and {"sent_id", "pos"} <= entity.keys()


@dataclass(frozen=True, slots=True)
class ValueChange:
    """A value that was replaced: the reason with its place, the value in the file, the value in the corpus."""

    why: str
    was: object
    now: object


def with_clear_values(raw: Any, relations: RelationSet) -> tuple[Any, list[ValueChange]]:
    """Return a document whose values have DocRED's types, as far as their meaning is clear, and the changes.

    `raw` is not changed. Values whose meaning is not clear stay as they are, for the check of the format.
    """
    changes: list[ValueChange] = []
    if type(raw) is not dict:
        return raw, changes
    values = _Values(changes)
    result = dict(raw)
    if "title" in raw:
        result["title"] = values.text(raw["title"], "title")
    if type(raw.get("sents")) is list:
        result["sents"] = [
            _sentence(tokens, f"sentence {number}", values) for number, tokens in enumerate(raw["sents"])
        ]
    if type(raw.get("vertexSet")) is list:
        result["vertexSet"] = [
            _entity(entity, f"entity {number}", values) for number, entity in enumerate(raw["vertexSet"])
        ]
    if type(raw.get("labels")) is list:
        result["labels"] = [
            _label(label, f"label {number}", relations, values) for number, label in enumerate(raw["labels"])
        ]
    return (result if changes else raw), changes


class _Values:
    """Collector of the changes of a document."""

    def __init__(self, changes: list[ValueChange]) -> None:
        self._changes = changes

    def replaced(self, value: Any, clear: Any, why: str) -> Any:
        """Return the clear value, and note the change; or `value` if `clear` is None."""
        if clear is None:
            return value
        self._changes.append(ValueChange(why, value, clear))
        return clear

    def text(self, value: Any, place: str) -> Any:
        """Return a whole number as text; anything else as it is."""
        return self.replaced(value, as_text(value), f"{place} is no text")

    def index(self, value: Any, place: str) -> Any:
        """Return digits in text as a whole number; anything else as it is."""
        return self.replaced(value, as_index(value), f"{place} is no whole number")

    def indices(self, listed: Any, place: str) -> Any:
        """Return a list with its items as whole numbers; anything else as it is."""
        if type(listed) is not list:
            return listed
        clear = [item if (index := as_index(item)) is None else index for item in listed]
        is_same = all(type(one) is type(other) for one, other in zip(clear, listed, strict=True))
        return self.replaced(listed, None if is_same else clear, f"{place} are no whole numbers")


def _sentence(tokens: Any, place: str, values: _Values) -> Any:
    if type(tokens) is not list or all(type(token) is str for token in tokens):
        return tokens
    return [values.text(token, f"token {number} of {place}") for number, token in enumerate(tokens)]


def _entity(entity: Any, place: str, values: _Values) -> Any:
    if is_single_mention(entity):
        entity = values.replaced(entity, [entity], f"{place} has no list around its mention")
    if type(entity) is not list:
        return entity
    return [_mention(mention, f"mention {number} of {place}", values) for number, mention in enumerate(entity)]


def _mention(mention: Any, place: str, values: _Values) -> Any:
    if type(mention) is not dict:
        return mention
    result = dict(mention)
    for key, convert in (("name", values.text), ("type", values.text), ("sent_id", values.index)):
        if key in mention:
            result[key] = convert(mention[key], f"{place}: {key}")
    if "pos" in mention:
        result["pos"] = values.indices(mention["pos"], f"{place}: pos")
    return result


def _label(label: Any, place: str, relations: RelationSet, values: _Values) -> Any:
    if type(label) is not dict:
        return label
    result = dict(label)
    for key in ("h", "t"):
        if key in label:
            result[key] = values.index(label[key], f"{place}: {key}")
    if "r" in label and not (type(label["r"]) is str and label["r"] in relations):
        result["r"] = values.replaced(label["r"], as_relation(label["r"], relations), f"{place}: r is no id")
    if "evidence" in label:
        result["evidence"] = values.indices(label["evidence"], f"{place}: evidence")
    return result
