"""TACRED: an example is a document of one sentence with two entities; both ends of a span are included."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from lmrc.common.errors import UserError
from lmrc.convert.convert import convert
from lmrc.convert.formats import FORMATS
from tests.convert.examples import converted, entities, sentences, triples

TOKENS = ["Ada", "Lum", "founded", "Tamm", "Works", "-LRB-", "TW", "-RRB-", "."]
EXAMPLE = {
    "id": "e7798fb926b9403cfcd2",
    "docid": "APW_1",
    "relation": "org:founded_by",
    "token": TOKENS,
    "subj_start": 3,
    "subj_end": 4,
    "obj_start": 0,
    "obj_end": 1,
    "subj_type": "ORGANIZATION",
    "obj_type": "PERSON",
    "stanford_pos": ["NNP"] * 9,
}
NONE = {**EXAMPLE, "id": "e2", "relation": "no_relation", "obj_start": 6, "obj_end": 6, "obj_type": "ORGANIZATION"}


def test_tacred(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps([EXAMPLE, NONE]))
    (first, second), remarks, relations = converted(path, "tacred")
    assert [first["title"], second["title"]] == ["e7798fb926b9403cfcd2", "e2"]
    assert sentences(first) == [" ".join(TOKENS)]
    assert entities(first) == [["ORGANIZATION: Tamm Works"], ["PERSON: Ada Lum"]]
    assert triples(first) == [(0, "org:founded_by", 1, [0])]
    assert entities(second)[1] == ["ORGANIZATION: TW"]
    assert triples(second) == []
    assert relations == ["org:founded_by"]
    assert remarks == {"pairs of no relation, which have no label": 1}


def test_gzip_and_lines(tmp_path: Path) -> None:
    path = tmp_path / "train.json.gz"
    path.write_bytes(gzip.compress(f"{json.dumps(EXAMPLE)}\n\n{json.dumps(NONE)}".encode()))
    documents, _, _ = converted(path, "tacred")
    assert [document["title"] for document in documents] == ["e7798fb926b9403cfcd2", "e2"]


def test_opennre(tmp_path: Path) -> None:
    head, tail = {"name": "tamm works", "pos": [3, 5], "id": "Q1"}, {"name": "ada lum", "pos": [0, 2], "id": "Q2"}
    path = tmp_path / "wiki80.txt"
    path.write_text(json.dumps({"token": TOKENS, "h": head, "t": tail, "relation": "founded by"}) + "\n")
    (document,), remarks, _ = converted(path, "tacred")
    assert entities(document) == [["ENTITY: Tamm Works"], ["ENTITY: Ada Lum"]]
    assert triples(document) == [(0, "founded by", 1, [0])]
    assert remarks == {"mentions without a type, now ENTITY": 2}


def test_a_span_outside_and_no_relation_at_all(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    unlabeled = {key: value for key, value in EXAMPLE.items() if key != "relation"}
    path.write_text(json.dumps([{**EXAMPLE, "obj_start": 9, "obj_end": 9}, unlabeled]))
    (first, second), remarks, _ = converted(path, "tacred")
    assert entities(first) == [["ORGANIZATION: Tamm Works"]]
    assert triples(first) == [] and "labels" not in second
    assert second["title"] == "e7798fb926b9403cfcd2 (2)"
    assert remarks == {
        "mentions outside of the text left out": 1,
        "entities without a mention left out": 1,
        "relations of an entity without a mention left out": 1,
        "examples without a relation": 1,
        "documents with the title of another one, numbered": 1,
    }


def test_a_key_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps([EXAMPLE, {"token": ["a"], "relation": "x"}]))
    with pytest.raises(UserError, match="example 1: subj_start is missing; it has relation, token"):
        convert(path, tmp_path / "out.json", FORMATS["tacred"])


@pytest.mark.parametrize(
    "content", [{"61b3a": "per:title", "61b3b": "no_relation"}, [{"id": "61b3a", "relation": "x"}]]
)
def test_a_patch_has_no_sentences(tmp_path: Path, content: object) -> None:
    path = tmp_path / "dev_patch.json"
    path.write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=r"labels of TACRED's examples, and no sentences .*: apply it to TACRED by the script"
    ):
        convert(path, tmp_path / "out.json", FORMATS["tacred"])
