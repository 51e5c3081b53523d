from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings

from lmrc.corpus.docred import parse_document, to_json
from lmrc.corpus.reading.hub_export import in_docred_layout
from lmrc.corpus.relations import DOCRED
from lmrc.corpus.types import Document
from tests.corpus.reading.examples import GOOD, changed
from tests.corpus.strategies import documents

COLUMNS = {"head": [0], "tail": [1], "relation_id": ["P551"], "relation_text": ["residence"], "evidence": [[0]]}


def test_columns_of_labels_become_labels() -> None:
    raw = {**GOOD, "labels": COLUMNS}
    assert in_docred_layout(raw)["labels"] == [
        {"h": 0, "t": 1, "r": "P551", "relation_text": "residence", "evidence": [0]}
    ]
    assert parse_document(raw, "hub.jsonl", 0, DOCRED) == parse_document(GOOD, "docs.json", 0, DOCRED)


@settings(max_examples=30, deadline=None)
@given(documents(labelled=True))
def test_an_export_is_read_like_the_file(document: Document) -> None:
    raw = to_json(document)
    labels, before = raw["labels"], copy.deepcopy(raw)
    names = {"head": "h", "tail": "t", "relation_id": "r", "evidence": "evidence"}
    columns = {name: [label[key] for label in labels] for name, key in names.items()}
    rows = [{name: label[key] for name, key in names.items()} for label in labels]
    entities = [{key: [mention[key] for mention in entity] for key in entity[0]} for entity in raw["vertexSet"]]
    for export in (columns, rows, {key: columns[name] for name, key in names.items()}):
        assert parse_document({**raw, "labels": export}, "x", 0, DOCRED) == document
    assert parse_document({**raw, "vertexSet": entities}, "x", 0, DOCRED) == document
    assert raw == before
    assert in_docred_layout(raw) is raw


@pytest.mark.parametrize(
    "labels",
    [{"head": [0], "tail": []}, {"head": 0}, {}, [{"head": 0, "tail": 1}], [3], "text"],
)
def test_other_forms_are_left_to_the_check(labels: object) -> None:
    assert in_docred_layout(changed((("labels",), labels)))["labels"] == labels
    assert in_docred_layout([labels]) == [labels]
