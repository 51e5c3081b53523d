"""DWIE: articles with concepts become documents; character offsets are those of the content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmrc.common.errors import UserError
from lmrc.convert.convert import convert
from lmrc.convert.formats import FORMATS
from tests.convert.examples import converted, entities, sentences, triples

CONTENT = "Orrland's Ada Lum resigns\n\nMs. Lum left on Friday. The Orrish party met in Tamm."


def mention(name: str, concept: int | None, start: int | None = None) -> dict[str, Any]:
    begin = CONTENT.index(name) if start is None else start
    return {"begin": begin, "end": begin + len(name), "text": name, "concept": concept}


ARTICLE: dict[str, Any] = {
    "id": "DW_7",
    "content": CONTENT,
    "tags": ["all", "train"],
    "mentions": [
        mention("Orrland", 0),
        mention("Ada Lum", 1),
        mention("Lum", 1, CONTENT.index("Lum left")),
        mention("Friday", 2),
        mention("Orrish", 3),
        {**mention("Tamm", 4), "candidates": ["Tamm"], "scores": [1.0]},
    ],
    "concepts": [
        {
            "concept": 0,
            "text": "Orrland",
            "link": "Orrland",
            "tags": ["topic::none", "type::entity", "type::gpe0", "type::location"],
        },
        {
            "concept": 1,
            "text": "Ada Lum",
            "tags": ["gender::female", "type::entity", "type::person", "type::politician"],
        },
        {"concept": 2, "text": "Friday", "tags": ["type::time", "type::value"]},
        {"concept": 3, "text": "Orrish", "tags": ["type::gpe0-x", "type::other"]},
        {"concept": 4, "text": "Tamm", "tags": []},
        {"concept": 5, "count": 0, "link": "Europe", "tags": []},
    ],
    "relations": [
        {"s": 1, "p": "citizen_of", "o": 0},
        {"s": 3, "p": "gpe0", "o": 0},
        {"s": 0, "p": "in0", "o": 5},
    ],
    "frames": [{"type": "none", "slots": []}],
    "iptc": ["1"],
}


def check(path: Path) -> None:
    (document,), remarks, relations = converted(path, "dwie")
    assert document["title"] == "DW_7"
    assert relations == ["citizen_of", "gpe0"]
    assert sentences(document) == [
        "Orrland ' s Ada Lum resigns",
        "Ms . Lum left on Friday .",
        "The Orrish party met in Tamm .",
    ]
    assert entities(document) == [
        ["location: Orrland"],
        ["person: Ada Lum", "person: Lum"],
        ["time: Friday"],
        ["gpe0-x: Orrish"],
        ["ENTITY: Tamm"],
    ]
    assert triples(document) == [(1, "citizen_of", 0, []), (3, "gpe0", 0, [])]
    assert remarks == {
        "links of entities to Wikipedia left out": 2,
        "finer types of entities left out": 2,
        "mentions without a type, now ENTITY": 1,
        "frames left out": 1,
        "entities without a mention left out": 1,
        "relations of an entity without a mention left out": 1,
        "sentences, split by rule": 3,
    }


@pytest.mark.parametrize("content", [ARTICLE, [ARTICLE], {"DW_7": ARTICLE}], ids=["one", "list", "by-id"])
def test_files(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "dwie.json"
    path.write_text(json.dumps(content, indent=1))
    check(path)


def test_folder(tmp_path: Path) -> None:
    folder = tmp_path / "annos_with_content"
    folder.mkdir()
    (folder / "DW_7.json").write_text(json.dumps(ARTICLE))
    check(folder)


def test_a_mention_without_a_concept(tmp_path: Path) -> None:
    path = tmp_path / "dwie.json"
    path.write_text(json.dumps({**ARTICLE, "mentions": [*ARTICLE["mentions"], mention("party", None)]}))
    (document,), remarks, _ = converted(path, "dwie")
    assert entities(document)[5:] == [["ENTITY: party"]]
    assert remarks["mentions without a concept, each now an entity"] == 1


def test_annotations_without_texts(tmp_path: Path) -> None:
    path = tmp_path / "DW_7.json"
    path.write_text(json.dumps({key: value for key, value in ARTICLE.items() if key != "content"}))
    with pytest.raises(UserError, match=r"has no content: .* run its scripts/dwie_download.py"):
        convert(path, tmp_path / "out.json", FORMATS["dwie"])
