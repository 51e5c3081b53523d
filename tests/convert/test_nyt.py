"""NYT in the forms of the field: names are found in their sentence, and each sentence is a document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmrc.common.errors import UserError
from lmrc.convert.convert import convert
from lmrc.convert.formats import FORMATS
from tests.convert.examples import Converted, converted, entities, sentences, triples

TEXT = "Ada Lum of Old Orr , Lum-on-Tamm , met the Orr Times in Orr ."
BORN, PLACE = "/people/person/place_of_birth", "/location/location/contains"


def convert_lines(tmp_path: Path, *records: dict[str, Any]) -> Converted:
    path = tmp_path / "nyt.json"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return converted(path, "nyt")


def test_relation_mentions(tmp_path: Path) -> None:
    record = {
        "sentText": TEXT + "\r\n",
        "articleId": "/m/docstore/1677367.xml.pb",
        "sentId": "1",
        # `start` is the number of the mention, as in the published files.
        "entityMentions": [
            {"start": 0, "label": "PERSON", "text": "Ada Lum"},
            {"start": 1, "label": "LOCATION", "text": "Old Orr"},
            {"start": 2, "label": "LOCATION", "text": "Lum-on-Tamm"},
            {"start": 3, "label": "LOCATION", "text": "Orr"},
        ],
        "relationMentions": [
            {"em1Text": "Ada Lum", "em2Text": "Old Orr", "label": BORN},
            {"em1Text": "Old Orr", "em2Text": "Lum-on-Tamm", "label": PLACE},
            {"em1Text": "Orr", "em2Text": "Ada Lum", "label": "None"},
            {"em1Text": "Orr", "em2Text": "Nowhere", "label": PLACE},
        ],
    }
    (document,), remarks, relations = convert_lines(tmp_path, record)
    assert document["title"] == "/m/docstore/1677367.xml.pb 1"
    assert sentences(document) == [TEXT]
    assert entities(document) == [
        ["PERSON: Ada Lum"],
        ["LOCATION: Old Orr"],
        ["LOCATION: Lum-on-Tamm"],
        # Not the "Orr" of "Old Orr", but that of "the Orr Times", which is no entity.
        ["LOCATION: Orr", "LOCATION: Orr"],
    ]
    assert triples(document) == [(0, BORN, 1, [0]), (1, PLACE, 2, [0])]
    assert relations == [PLACE, BORN]
    assert remarks == {
        "pairs of no relation, which have no label": 1,
        "names that are not in their sentence": 1,
        "entities without a mention left out": 1,
        "relations of an entity without a mention left out": 1,
    }


def test_triple_list(tmp_path: Path) -> None:
    # The last word of a name, as in one of the variants: it is in "Ada Lum" only, and not in "Lum-on-Tamm".
    triple_list = [["Ada", BORN, "Old Orr"], ["Old Orr", PLACE, "tamm"], ["Old Orr", PLACE, "Ada"]]
    first, second = {"text": TEXT, "triple_list": triple_list}, {"text": "No one met .", "triple_list": []}
    (document,), remarks, _ = convert_lines(tmp_path, first, second)
    assert document["title"] == "nyt 0"
    assert entities(document) == [["ENTITY: Ada"], ["ENTITY: Old Orr"], ["ENTITY: Tamm"]]
    # A token ends where a mention does.
    assert "Lum-on- Tamm" in sentences(document)[0]
    assert triples(document) == [(0, BORN, 1, [0]), (1, PLACE, 2, [0]), (1, PLACE, 0, [0])]
    assert remarks == {"mentions without a type, now ENTITY": 3, "documents without an entity left out": 1}


def test_a_name_with_other_white_space(tmp_path: Path) -> None:
    triple = ["Lum - on - Tamm", PLACE, "OLD ORR"]
    (document,), remarks, _ = convert_lines(tmp_path, {"text": TEXT, "triple_list": [triple]})
    assert entities(document) == [["ENTITY: Lum-on-Tamm"], ["ENTITY: Old Orr"]]
    assert remarks == {"mentions without a type, now ENTITY": 2}


def test_a_name_inside_of_another_one_only(tmp_path: Path) -> None:
    triple = {"subject": "Orr Times", "predicate": PLACE, "object": "Times"}
    (document,), _, _ = convert_lines(tmp_path, {"sentence": TEXT, "triples": [triple]})
    assert entities(document) == [["ENTITY: Orr Times"], ["ENTITY: Times"]]
    assert triples(document) == [(0, PLACE, 1, [0])]


def test_tokens_with_types(tmp_path: Path) -> None:
    record = {
        "tokens": TEXT.split(),
        "spo_list": [["Ada Lum", BORN, "Old Orr"]],
        "spo_details": [[0, 2, "PER", BORN, 3, 5, "LOC"]],
    }
    (document,), remarks, _ = convert_lines(tmp_path, record)
    assert entities(document) == [["PER: Ada Lum"], ["LOC: Old Orr"]]
    assert triples(document) == [(0, BORN, 1, [0])]
    assert not remarks


def test_opennre(tmp_path: Path) -> None:
    start = TEXT.rindex("Orr")
    record = {
        "text": TEXT,
        "relation": PLACE,
        "h": {"id": "m.0", "name": "Old Orr", "pos": [11, 18]},
        "t": {"id": "m.1", "name": "Orr", "pos": [start, start + 3]},
    }
    (first, second), remarks, _ = convert_lines(tmp_path, record, {**record, "relation": "NA"})
    assert entities(first) == [["ENTITY: Old Orr"], ["ENTITY: Orr"]]
    assert [mention["pos"] for (mention,) in first["vertexSet"]] == [[3, 5], [13, 14]]
    assert triples(first) == [(0, PLACE, 1, [0])] and triples(second) == []
    assert remarks == {"pairs of no relation, which have no label": 1, "mentions without a type, now ENTITY": 4}


def test_head_and_tail_with_freebase_types(tmp_path: Path) -> None:
    record = {
        "sentence": TEXT,
        "relation": BORN,
        "head": {"id": "/guid/1", "word": "Ada Lum", "type": "/people/person,/book/author"},
        "tail": {"id": "/guid/2", "word": "Old Orr", "type": "/location/location"},
    }
    (document,), remarks, _ = convert_lines(tmp_path, record)
    assert entities(document) == [["/people/person: Ada Lum"], ["/location/location: Old Orr"]]
    assert remarks == {"further types of entities left out": 1}


def test_tplinker(tmp_path: Path) -> None:
    record = {
        "id": "train_7",
        "text": TEXT,
        "entity_list": [
            {"text": "Ada Lum", "type": "PER", "char_span": [0, 7]},
            {"text": "Old Orr", "type": "LOC", "char_span": [11, 18]},
        ],
        "relation_list": [
            {
                "subject": "Ada Lum",
                "object": "Old Orr",
                "predicate": BORN,
                "subj_char_span": [0, 7],
                "obj_char_span": [11, 18],
            }
        ],
    }
    (document,), remarks, _ = convert_lines(tmp_path, record)
    assert document["title"] == "nyt train_7"
    assert entities(document) == [["PER: Ada Lum"], ["LOC: Old Orr"]]
    assert triples(document) == [(0, BORN, 1, [0])]
    assert not remarks


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"a": 1}, "sentence 0 has a; expected sentText with relationMentions"),
        ({"text": "x", "triple_list": [["a", "b"]]}, r"triple_list has \['a', 'b'\], expected subject, relation"),
        ({"sentText": "x", "relationMentions": [{"em1Text": "x"}]}, "a relation mention: em2Text is missing"),
    ],
)
def test_errors(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    path = tmp_path / "nyt.json"
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=message):
        convert(path, tmp_path / "out.json", FORMATS["nyt"])


def test_duie(tmp_path: Path) -> None:
    triple = {
        "subject": "Ada Lum",
        "predicate": "born",
        "object": "Old Orr",
        "subject_type": "PER",
        "object_type": "LOC",
    }
    slots = {"object": {"@value": "Old Orr", "in": "Orr"}, "object_type": {"@value": "LOC", "in": "LOC"}}
    one, two = ({"postag": [], "text": TEXT, "spo_list": [spo]} for spo in (triple, {**triple, **slots}))
    documents, remarks, _ = convert_lines(tmp_path, one, two)
    for document in documents:
        assert entities(document) == [["PER: Ada Lum"], ["LOC: Old Orr"]]
        assert triples(document) == [(0, "born", 1, [0])]
    assert remarks == {"further values of objects left out": 1}


def test_marked_relations(tmp_path: Path) -> None:
    relation = {"rtext": BORN, "em1": "Ada Lum", "em2": "Old Orr", "tags": [4, 5]}
    (document,), _, _ = convert_lines(tmp_path, {"sentext": TEXT, "relations": [relation]})
    assert entities(document) == [["ENTITY: Ada Lum"], ["ENTITY: Old Orr"]]
    assert triples(document) == [(0, BORN, 1, [0])]


def test_lines_of_nyt10(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    ends = "m.0\tm.1\told_orr\tada_lum\t"
    path.write_text(f"{ends}{PLACE}\tada_lum left old_orr . ###END###\n\n{ends}NA\told_orr and ada_lum###END###\n")
    (first, second), remarks, _ = converted(path, "OpenNRE")
    assert (first["title"], sentences(first)) == ("train 0", ["ada_lum left old_orr ."])
    assert entities(first) == [["ENTITY: old_orr"], ["ENTITY: ada_lum"]]
    assert triples(first) == [(0, PLACE, 1, [0])] and triples(second) == []
    assert remarks == {"pairs of no relation, which have no label": 1, "mentions without a type, now ENTITY": 4}
    path.write_text("m.0\tm.1\ta\n")
    with pytest.raises(UserError, match=r"line 1 is 'm.0.*expected JSON, or two identifiers, two names"):
        convert(path, tmp_path / "out.json", FORMATS["nyt"])


def test_sentences_and_triples_in_two_files(tmp_path: Path) -> None:
    folder = tmp_path / "nyt24"
    folder.mkdir()
    (folder / "train.sent").write_text(f"{TEXT}\nNobody .\n")
    (folder / "train.tup").write_text(f"Ada Lum ; Old Orr ; {BORN} | Old Orr ; Orr ; {PLACE}\n\n")
    for path in (folder, folder / "train.sent", folder / "train.tup"):
        (document,), remarks, _ = converted(path, "nyt")
        assert triples(document) == [(0, BORN, 1, [0]), (1, PLACE, 2, [0])]
        assert remarks["documents without an entity left out"] == 1
    (folder / "train.tup").write_text("Ada Lum ; Old Orr\n\n")
    with pytest.raises(UserError, match=r"train.tup: line 1 has 'Ada Lum ; Old Orr', expected head ; tail ; relation"):
        convert(folder / "train.sent", tmp_path / "out.json", FORMATS["nyt"])
    (folder / "train.tup").write_text("\n")
    with pytest.raises(UserError, match=r"have not the same number of lines"):
        convert(folder / "train.sent", tmp_path / "out.json", FORMATS["nyt"])
