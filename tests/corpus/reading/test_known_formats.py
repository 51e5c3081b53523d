"""Files of other formats are recognized, and the command that reads them is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmrc.common.errors import UserError
from lmrc.convert.formats import FORMATS
from lmrc.corpus.build import build_corpus
from lmrc.corpus.reading.known_formats import format_of_file, remedy
from tests.convert.test_malformed import RECORDS
from tests.corpus.reading.examples import GOOD

PAIR = ["1:CID:2", "L2R", "CROSS", "0-1", "0-1", *["D1", "a", "X", "0", "1", "0"] * 2]
TEXTS = {
    "pubtator": ["17|t|Naloxine\n17|a|x\n", "\t".join(["17", "a b", *PAIR]) + "\n"],
    "conllu": [
        "# newdoc id = a\n1\tA\n",
        "# sent_id = 1\n",
        "1\t" + "\t".join("abcdefghi") + "\n",
        "1-2\tA" + "\t_" * 8 + "\n",
    ],
    "brat": ["T1\tPerson 0 3\tAda\n"],
    "bioc": ["<?xml version='1.0'?>\n<!DOCTYPE collection SYSTEM 'BioC.dtd'>\n<collection>", "<collection><source/>"],
    "nyt": ["m.1\tm.2\tqueens\tnew_york\t/a/b\tqueens , new_york ###END###\n"],
}


@pytest.mark.parametrize(("name", "record"), RECORDS, ids=lambda value: value if isinstance(value, str) else "")
def test_records_of_each_format(tmp_path: Path, name: str, record: dict[str, Any]) -> None:
    path = tmp_path / "a.b.json"
    for content in (record, [record, record]):
        if name == "bioc":
            record["infons"] = {}
        path.write_text(json.dumps(content))
        assert format_of_file(path) == name
    command = rf"it looks like {name}: lmrc data convert .*a\.b\.json --from {name} --out a\.docred\.json"
    with pytest.raises(UserError, match=rf"a\.b\.json: document 0 is an object .*; {command}$"):
        build_corpus(path, tmp_path / "c")


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in TEXTS.items() for text in texts])
def test_texts_of_each_format(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text)
    assert format_of_file(path) == name
    with pytest.raises(UserError, match=rf"is not JSON.*; it looks like {name}: lmrc data convert .* --from {name} "):
        build_corpus(path, tmp_path / "c")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            '[{"title": "a", "h_idx": 0, "t_idx": 1, "r": "P1"}]',
            "these are predictions: lmrc score .* --gold DOCUMENTS",
        ),
        ('{"title": "a", "text": "b", "triples": [], "sentences": []}', "results of lmrc extract"),
        ('{"text": "Ada."}', "these are texts: lmrc data convert .* --from text .*, or lmrc extract"),
        ('{"P17": "country"}', "if it is a relation set, give it as --relations"),
        ('[["Ada", "Rome", "P19"]]', "a list of three texts, as files of training facts do"),
    ],
)
def test_other_files_of_the_field(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=sentence):
        build_corpus(tmp_path / "a.json", tmp_path / "c")


def test_names_are_those_of_the_converters(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([GOOD]))
    assert format_of_file(tmp_path / "a.json") == "docred"
    assert "in DocRED's format already: lmrc data build" in remedy("docred", tmp_path / "a.json")
    assert {*TEXTS, *(name for name, _ in RECORDS)} <= {*FORMATS}


@pytest.mark.parametrize("content", ["", "[", "[1]", "{", "nobody", "PK\x03\x04", '{"a": 1}'])
def test_unknown_files(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    assert format_of_file(tmp_path / "a.json") is None
    assert remedy(None, tmp_path / "a.json") == ""
    assert format_of_file(tmp_path / "absent.json") is None
