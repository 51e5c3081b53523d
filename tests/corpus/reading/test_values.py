"""Values of another type: those with a clear meaning are replaced and noted, the others stay."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from lmrc.corpus.reading.format_check import Kind, check_document
from lmrc.corpus.reading.values import as_index, as_text, with_clear_values
from lmrc.corpus.relations import DOCRED, RelationSet
from tests.corpus.reading.examples import GOOD, changed, mention

LONDON = GOOD["vertexSet"][1][0]
# Path, value in the file, value in the corpus, and the reason.
CLEAR: list[tuple[tuple[str | int, ...], object, object, str]] = [
    (("title",), 1995, "1995", "title is no text"),
    (("sents", 0, 2), 7, "7", "token 2 of sentence 0 is no text"),
    (("vertexSet", 1), LONDON, [LONDON], "entity 1 has no list around its mention"),
    (mention(1, 0, "name"), 12, "12", "mention 0 of entity 1: name is no text"),
    (mention(1, 0, "type"), 3, "3", "mention 0 of entity 1: type is no text"),
    (mention(0, 1, "sent_id"), "1", 1, "mention 1 of entity 0: sent_id is no whole number"),
    (mention(0, 1, "pos"), ["0", 1.0], [0, 1], "mention 1 of entity 0: pos are no whole numbers"),
    (("labels", 0, "h"), "0", 0, "label 0: h is no whole number"),
    (("labels", 0, "t"), 1.0, 1, "label 0: t is no whole number"),
    (("labels", 0, "r"), "residence", "P551", "label 0: r is no id"),
    (("labels", 0, "evidence"), ["0"], [0], "label 0: evidence are no whole numbers"),
]


@pytest.mark.parametrize(("path", "was", "now", "why"), CLEAR)
def test_a_clear_value_is_a_breach_that_can_be_mended(
    path: tuple[str | int, ...], was: object, now: object, why: str
) -> None:
    raw = changed((path, was))
    before = copy.deepcopy(raw)
    result, changes = with_clear_values(raw, DOCRED)
    assert raw == before and result == changed((path, now))
    assert [(change.why, change.was, change.now) for change in changes] == [(why, was, now)]
    # The check refuses the document before, and names a kind that --fix mends.
    (breach,) = check_document(raw, DOCRED)[1]
    assert breach.kind is (Kind.RELATION_NAME if was == "residence" else Kind.VALUE)
    assert breach.kind.fixable
    assert check_document(result, DOCRED)[1] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("title",), 1.5),
        (("title",), True),
        (("sents", 0, 2), 19.5),
        (("sents", 0, 2), None),
        (("sents", 0), "Ada lived in London ."),
        (mention(0, 1, "sent_id"), "one"),
        (mention(0, 1, "sent_id"), "-1"),
        (mention(0, 1, "sent_id"), 0.5),
        (mention(0, 1, "pos"), [0]),
        (mention(0, 1, "pos"), "0-1"),
        (mention(0, 1, "pos"), [0, None]),
        (("vertexSet", 1), {"name": "London"}),
        (("labels", 0, "h"), True),
        (("labels", 0, "r"), 551),
        (("labels", 0, "evidence"), "0"),
        (("labels",), {"h": 0}),
    ],
)
def test_other_values_stay_as_they_are_and_cannot_be_mended(path: tuple[str | int, ...], value: object) -> None:
    raw = changed((path, value))
    assert with_clear_values(raw, DOCRED) == (raw, [])
    breaches = check_document(raw, DOCRED)[1]
    assert breaches and all(breach.kind is Kind.FORM for breach in breaches)


@pytest.mark.parametrize("raw", [None, 7, [], {}, {"sents": 1, "vertexSet": 2, "labels": 3}, GOOD])
def test_nothing_changes_without_need(raw: Any) -> None:
    assert with_clear_values(raw, DOCRED) == (raw, [])


def test_numbers_and_names_of_relations() -> None:
    relations = RelationSet(("1", "P2"), ("first", "1st"))
    for was, now in ((1, "1"), ("first", "1"), ("1st", "P2"), ("1", "1"), (2, 2), ("x", "x")):
        result, _ = with_clear_values(changed((("labels", 0, "r"), was)), relations)
        assert result["labels"][0]["r"] == now


def test_texts_and_indices() -> None:
    assert [as_text(value) for value in (7, -1, 1.0, True, None, "7")] == ["7", "-1", None, None, None, None]
    assert [as_index(value) for value in ("07", 2.0, 7, "", "²", "1e3", float("inf"), None)] == [
        7, 2, None, None, None, None, None, None
    ]  # fmt: skip
