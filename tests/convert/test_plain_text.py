"""Plain text: mentions by rules, given mentions, and an account."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmrc.common.errors import UserError
from lmrc.convert.convert import convert
from lmrc.convert.formats import FORMATS
from tests.convert.examples import converted, entities, sentences


def test_texts_with_and_without_mentions(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    given = [{"start": 0, "end": 3, "type": "GPE"}]
    contents = [
        {"title": "a", "text": "Ada Lum left. Lum is in Tamm."},
        {"title": "b", "text": "bly is a town", "mentions": given},
        {"title": "c", "text": "nothing here"},
    ]
    path.write_text("".join(json.dumps(content) + "\n" for content in contents))
    documents, remarks, relations = converted(path, "text")
    assert [document["title"] for document in documents] == ["a", "b"]
    assert sentences(documents[0]) == ["Ada Lum left .", "Lum is in Tamm ."]
    assert entities(documents[0]) == [["PER: Ada Lum", "MISC: Lum"], ["LOC: Tamm"]]
    assert entities(documents[1]) == [["LOC: bly"]]
    assert relations == []
    assert remarks == {
        "documents without an entity left out": 1,
        "texts with mentions by rules": 2,
        "mentions of type GPE, now LOC": 1,
    }


def test_a_folder_of_texts(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("Ada Lum left.")
    out = tmp_path / "out.json"
    assert convert(tmp_path, out, FORMATS["text"]).documents == 2
    assert [document["title"] for document in json.loads(out.read_text())] == ["a", "b"]


def test_mentions_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "Ada", "mentions": [{"start": 0, "end": 9, "type": "PER"}]}]))
    with pytest.raises(UserError, match="spans 0 to 9, which is not in the text"):
        convert(path, tmp_path / "out.json", FORMATS["text"])
