from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrc.corpus.docred import to_json
from lmrc.corpus.reading.format_check import Kind, check_document
from lmrc.corpus.relations import DOCRED
from lmrc.corpus.types import Document
from tests.corpus.reading.examples import GOOD, changed, mention
from tests.corpus.strategies import documents


def kinds(raw: object) -> list[Kind]:
    document, breaches = check_document(raw, DOCRED)
    assert (document is None) == bool(breaches)
    return [breach.kind for breach in breaches]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (GOOD, []),
        ([], [Kind.FORM]),
        ({}, [Kind.FORM] * 3),
        (changed((mention(0, 0, "pos"), [3, 3])), [Kind.EMPTY_SPAN]),
        (changed((mention(0, 0, "pos"), [6, 6])), [Kind.EMPTY_SPAN]),
        (changed((mention(0, 0, "pos"), [7, 7])), [Kind.SPAN]),
        (changed((mention(0, 0, "pos"), [2, 1])), [Kind.SPAN]),
        (changed((mention(0, 0, "sent_id"), 2)), [Kind.SENTENCE]),
        (changed((("vertexSet", 1), [])), [Kind.NO_MENTION]),
        # Labels of a document without entities, and mentions of a malformed sentence, are no further breaches.
        (changed((("vertexSet",), [])), [Kind.NO_ENTITY]),
        (changed((("sents", 1), "She wrote.")), [Kind.FORM]),
        (changed((("labels", 0, "t"), 0)), [Kind.SELF]),
        (changed((("labels", 0, "t"), 2)), [Kind.ENTITY]),
        (changed((("labels", 0, "r"), "P0")), [Kind.RELATION]),
        (changed((("labels", 0, "r"), "Na")), [Kind.NO_RELATION]),
        (changed((("labels", 0, "r"), "residence")), [Kind.RELATION_NAME]),
        (changed((mention(0, 0, "type"), None)), [Kind.MISSING]),
        ({"sents": GOOD["sents"]}, [Kind.FORM] * 2),
        (changed((("labels", 0, "evidence"), [0, 2])), [Kind.EVIDENCE]),
    ],
)
def test_kinds(raw: object, expected: list[Kind]) -> None:
    assert kinds(raw) == expected


def test_all_breaches_of_a_document_are_found() -> None:
    raw = changed(
        (("title",), None),
        (mention(0, 0, "pos"), [2, 2]),
        (mention(0, 1, "sent_id"), 9),
        (mention(1, 0, "name"), 3),
        (("labels",), [{"h": 0, "t": 0, "r": "P17"}, {"h": 0, "t": 1, "r": "P0"}, {"h": 0, "t": 5, "r": "P17"}]),
    )
    assert kinds(raw) == [
        Kind.MISSING, Kind.EMPTY_SPAN, Kind.SENTENCE, Kind.VALUE, Kind.SELF, Kind.RELATION, Kind.ENTITY
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("relation", "words"),
    [
        ("P5511", "did you mean P551?"),
        ("residence", "'residence' is the name of 'P551', expected the id"),
        ("works_at", "the relation set has 96 ids: P6, P17, P19, P20, P22, …"),
    ],
)
def test_unknown_relations(relation: str, words: str) -> None:
    _, (breach,) = check_document(changed((("labels", 0, "r"), relation)), DOCRED)
    assert words in breach.problem


@settings(max_examples=60, deadline=None)
@given(documents(labelled=True), st.data())
def test_the_number_of_broken_parts_is_the_number_of_breaches(document: Document, data: st.DataObject) -> None:
    raw = copy.deepcopy(to_json(document))
    parts: list[dict[str, Any]] = [*(mention for entity in raw["vertexSet"] for mention in entity), *raw["labels"]]
    broken = data.draw(st.sets(st.integers(0, len(parts) - 1)))
    for index in broken:
        parts[index].update({"pos": [1, 1], "sent_id": 0} if "pos" in parts[index] else {"t": parts[index]["h"]})
        if "pos" in parts[index]:
            parts[index]["pos"] = [len(raw["sents"][0])] * 2
    assert len(kinds(raw)) == len(broken)
