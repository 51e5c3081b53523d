"""Files of all JSON formats with each value removed or replaced: they are converted, or refused in a sentence."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmrc.common.errors import UserError
from lmrc.convert.convert import convert
from lmrc.convert.formats import FORMATS

RECORDS: list[tuple[str, dict[str, Any]]] = [
    (
        "scierc",
        {
            "doc_key": "a",
            "sentences": [["A", "parser", "runs"], ["It", "works"]],
            "ner": [[[0, 1, "Method"]], [[3, 3, "Generic"], [4, 4, "Task"]]],
            "relations": [[], [[3, 3, 4, 4, "USED-FOR"]]],
            "clusters": [[[0, 1], [3, 3]]],
            "events": [[], []],
        },
    ),
    (
        "scierc",
        {
            "tokens": ["A", "parser", "runs"],
            "entities": [{"type": "X", "start": 0, "end": 2}, {"type": "Y", "start": 2, "end": 3}],
            "relations": [{"type": "R", "head": 0, "tail": 1}],
            "orig_id": 7,
        },
    ),
    (
        "dwie",
        {
            "id": "DW_1",
            "content": "Ada left Rome.",
            "mentions": [
                {"begin": 0, "end": 3, "text": "Ada", "concept": 0},
                {"begin": 9, "end": 13, "text": "Rome", "concept": 1},
            ],
            "concepts": [{"concept": 0, "tags": ["type::person"], "link": "Ada"}, {"concept": 1, "tags": []}],
            "relations": [{"s": 0, "p": "lived", "o": 1}],
            "frames": [],
        },
    ),
    (
        "tacred",
        {
            "id": "1",
            "token": ["Ada", "left", "Rome"],
            "relation": "r",
            **{"subj_start": 0, "subj_end": 0, "obj_start": 2, "obj_end": 2, "subj_type": "P", "obj_type": "C"},
        },
    ),
    (
        "tacred",
        {
            "token": ["Ada", "left", "Rome"],
            "h": {"name": "Ada", "pos": [0, 1]},
            "t": {"name": "Rome", "pos": [2, 3], "type": "C"},
            "relation": "r",
        },
    ),
    (
        "nyt",
        {
            "sentText": "Ada left Rome",
            "articleId": "a",
            "sentId": "1",
            "entityMentions": [{"start": 0, "label": "P", "text": "Ada"}],
            "relationMentions": [{"em1Text": "Ada", "em2Text": "Rome", "label": "r"}],
        },
    ),
    ("nyt", {"text": "Ada left Rome", "triple_list": [["Ada", "r", "Rome"]]}),
    (
        "nyt",
        {
            "text": "Ada left Rome",
            "spo_list": [
                {"subject": "Ada", "predicate": "r", "object": {"@value": "Rome", "inWork": "x"}}
                | {"subject_type": "P", "object_type": {"@value": "C", "inWork": "W"}}
            ],
        },
    ),
    (
        "nyt",
        {
            "tokens": ["Ada", "left", "Rome"],
            "spo_list": [["Ada", "r", "Rome"]],
            "spo_details": [[0, 1, "P", "r", 2, 3, "C"]],
        },
    ),
    ("nyt", {"sentext": "Ada left Rome", "relations": [{"em1": "Ada", "em2": "Rome", "rtext": "r"}]}),
    ("nyt", {"text": "Ada left Rome", "relation": "r", "h": {"name": "Ada", "pos": [0, 3]}, "t": {"name": "Rome"}}),
    (
        "nyt",
        {
            "text": "Ada left Rome",
            "relation_list": [
                {
                    "subject": "Ada",
                    "predicate": "r",
                    "object": "Rome",
                    "subj_char_span": [0, 3],
                    "obj_char_span": [9, 13],
                }
            ],
            "entity_list": [{"text": "Ada", "type": "P", "char_span": [0, 3]}],
        },
    ),
    (
        "bioc",
        {
            "documents": [
                {
                    "id": "1",
                    "passages": [
                        {
                            "offset": 0,
                            "text": "Ada left Rome",
                            "annotations": [
                                {
                                    "id": "T1",
                                    "text": "Ada",
                                    "infons": {"type": "P", "identifier": "D1"},
                                    "locations": [{"offset": 0, "length": 3}],
                                },
                                {
                                    "id": "T2",
                                    "text": "Rome",
                                    "infons": {"type": "C"},
                                    "locations": [{"offset": 9, "length": 2}, {"offset": 11, "length": 2}],
                                },
                            ],
                            "sentences": [],
                            "relations": [],
                        }
                    ],
                    "relations": [
                        {"infons": {"type": "r"}, "nodes": [{"refid": "T1"}, {"refid": "T2"}]},
                        {"infons": {"type": "r", "entity1": "D1", "entity2": "D1"}},
                        {"infons": {"type": "r", "role1": {"identifier": "D1"}, "role2": {"identifier": "D1"}}},
                    ],
                }
            ]
        },
    ),
]
VALUES: tuple[Any, ...] = (None, True, 7, -1, 1.5, "", "x", [], [7], [[]], ["x"], {}, {"x": 7})
REMOVED = object()


def paths(value: Any) -> Iterator[tuple[Any, ...]]:
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (key,)
        yield from ((key, *path) for path in paths(inner))


def changed(record: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    result: Any = copy.deepcopy(record)
    inner = result
    for key in path[:-1]:
        inner = inner[key]
    if value is REMOVED:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return result  # type: ignore[no-any-return]


@pytest.mark.parametrize(("source", "record"), RECORDS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_value_may_be_wrong(tmp_path: Path, source: str, record: dict[str, Any]) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps(record))
    assert convert(path, tmp_path / "out.json", FORMATS[source]).triples >= 1
    for place in paths(record):
        for value in (REMOVED, *VALUES):
            path.write_text(json.dumps([changed(record, place, value)]))
            try:
                list(FORMATS[source].read(path, Counter()))
            except UserError as error:
                assert "\n" not in str(error)
            except Exception as error:
                raise AssertionError(f"{place} = {value!r}: {error!r}") from error
