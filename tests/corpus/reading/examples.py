"""A document in DocRED's format, and changed copies of it."""

from __future__ import annotations

import copy
from typing import Any

GOOD: dict[str, Any] = {
    "title": "Ada",
    "sents": [["Ada", "Lovelace", "lived", "in", "London", "."], ["She", "wrote", "."]],
    "vertexSet": [
        [
            {"name": "Ada Lovelace", "sent_id": 0, "pos": [0, 2], "type": "PER"},
            {"name": "She", "sent_id": 1, "pos": [0, 1], "type": "PER"},
        ],
        [{"name": "London", "sent_id": 0, "pos": [4, 5], "type": "LOC"}],
    ],
    "labels": [{"h": 0, "t": 1, "r": "P551", "evidence": [0]}],
}


def changed(*changes: tuple[tuple[str | int, ...], Any]) -> dict[str, Any]:
    """Return `GOOD` with other values at the given paths."""
    raw = copy.deepcopy(GOOD)
    for path, value in changes:
        parent: Any = raw
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = value
    return raw


def mention(entity: int, position: int, key: str) -> tuple[str | int, ...]:
    """Return the path of a value of a mention."""
    return ("vertexSet", entity, position, key)
