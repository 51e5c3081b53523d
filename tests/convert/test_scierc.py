"""SciERC: token spans of the document become mentions, clusters become entities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmrc.common.errors import UserError
from lmrc.convert.convert import convert
from lmrc.convert.formats import FORMATS
from tests.convert.examples import Converted, converted, entities, sentences, triples

DOCUMENT: dict[str, Any] = {
    "doc_key": "J01",
    "dataset": "scierc",
    "sentences": [
        ["We", "present", "GlowNet", ",", "a", "parser", "of", "lamp", "texts", "."],
        ["It", "uses", "beam", "search", "on", "LampBank", "."],
    ],
    # The last one has a score, as in predictions.
    "ner": [
        [[2, 2, "Method"], [4, 8, "Method"], [7, 8, "Material"]],
        [[10, 10, "Generic"], [12, 13, "Method"], [15, 15, "Material", 3.5]],
    ],
    "relations": [
        [[4, 8, 7, 8, "USED-FOR"], [2, 2, 4, 8, "HYPONYM-OF"]],
        [[12, 13, 10, 10, "USED-FOR"], [15, 15, 10, 10, "EVALUATE-FOR", 0.1]],
    ],
    "clusters": [[[2, 2], [10, 10]], [[15, 15], [13, 13]]],
}


def convert_lines(tmp_path: Path, *documents: dict[str, Any]) -> Converted:
    path = tmp_path / "scierc.json"
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))
    return converted(path, "scierc")


EXPECTED_ENTITIES = [
    ["Method: GlowNet", "Generic: It"],
    ["Method: a parser of lamp texts"],
    ["Material: lamp texts"],
    ["Method: beam search"],
    # A cluster's span that is not in ner gets the type of the others.
    ["Material: search", "Material: LampBank"],
]
EXPECTED_TRIPLES = [
    (1, "USED-FOR", 2, [0]),
    (0, "HYPONYM-OF", 1, [0]),
    (3, "USED-FOR", 0, [1]),
    (4, "EVALUATE-FOR", 0, [1]),
]


def test_dygie(tmp_path: Path) -> None:
    (document,), remarks, relations = convert_lines(tmp_path, DOCUMENT)
    assert document["title"] == "J01"
    assert document["sents"] == DOCUMENT["sentences"]
    assert entities(document) == EXPECTED_ENTITIES
    assert triples(document) == EXPECTED_TRIPLES
    assert relations == ["EVALUATE-FOR", "HYPONYM-OF", "USED-FOR"]
    assert remarks == {"mentions of a cluster without a type of their own, now that of the cluster": 1}


def test_spans_that_are_counted_from_each_sentence(tmp_path: Path) -> None:
    def moved(items: list[list[Any]]) -> list[list[Any]]:
        return [[part - 10 if type(part) is int else part for part in item] for item in items]

    local = {**DOCUMENT, "clusters": []}
    local |= {key: [DOCUMENT[key][0], moved(DOCUMENT[key][1])] for key in ("ner", "relations")}
    (document,), remarks, _ = convert_lines(tmp_path, local)
    assert [name for entity in entities(document) for name in entity] == [
        "Method: GlowNet",
        "Method: a parser of lamp texts",
        "Material: lamp texts",
        "Generic: It",
        "Method: beam search",
        "Material: LampBank",
    ]
    assert triples(document)[2:] == [(4, "USED-FOR", 3, [1]), (5, "EVALUATE-FOR", 3, [1])]
    assert remarks == {"documents whose spans are counted from the begin of each sentence": 1}


def test_spert(tmp_path: Path) -> None:
    record = {
        "tokens": ["Ada", "Lum", "lives", "in", "Orr"],
        "entities": [{"type": "Peop", "start": 0, "end": 2}, {"type": "Loc", "start": 4, "end": 5}],
        "relations": [{"type": "Live_In", "head": 0, "tail": 1}],
        "orig_id": 71,
    }
    path = tmp_path / "conll04.json"
    path.write_text(json.dumps([record]))
    (document,), remarks, _ = converted(path, "dygie")
    assert document["title"] == "71"
    assert entities(document) == [["Peop: Ada Lum"], ["Loc: Orr"]]
    assert triples(document) == [(0, "Live_In", 1, [0])]
    assert not remarks


def test_nothing_is_dropped_in_silence(tmp_path: Path) -> None:
    record = {
        "doc_key": "x",
        "sentences": [["A", "b"], [], ["c", "d"]],
        # A second type, a span over two sentences, and one outside of the document.
        "ner": [[[0, 0, "T"], [0, 0, "U"], [1, 2, "T"]], [], [[3, 9, "T"]]],
        "relations": [[[0, 0, 3, 3, "R"], [0, 0, 3, 9, "R"], [0, 0, 0, 0, "R"]], [], []],
        "events": [[["e"]], [], []],
    }
    (document,), remarks, _ = convert_lines(tmp_path, record)
    assert sentences(document) == ["A b c d"]
    assert entities(document) == [["T: A"], ["T: b c"], ["ENTITY: d"]]
    assert triples(document) == [(0, "R", 2, [0])]
    assert remarks == {
        "event annotations left out": 1,
        "further types of a span left out": 1,
        "spans outside of the document left out": 2,
        "spans of a relation that are in no other list, now mentions": 1,
        "mentions without a type, now ENTITY": 1,
        "relations of an entity without a mention left out": 1,
        "relations of an entity with itself left out": 1,
        "empty sentences left out": 1,
        "sentences joined with the one before, as a mention is in both": 1,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty, expected JSON"),
        ('{"sentences": [["a"]]', "is not valid JSON after 0 documents"),
        ('[["a"]]', "document 0 is a list, expected an object"),
        ('{"ner": []}', "document 0: sentences is missing; it has ner"),
        ('{"sentences": ["a b"]}', "document 0: sentence 0 is no list of tokens"),
        (
            '{"sentences": [["a"]], "ner": [[0, 0, "T"]]}',
            "ner has 0, expected 2 token indices and a label, in a list for each sentence",
        ),
        ('{"sentences": [["a"]], "ner": ["T"]}', "ner is no list of lists, expected one per sentence"),
        ('{"sentences": [["a"]], "ner": [[[0, "T"]]]}', r"ner has \[0, 'T'\], expected 2 token indices and a label"),
    ],
)
def test_errors(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        convert(path, tmp_path / "out.json", FORMATS["scierc"])
