from __future__ import annotations

import copy
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrc.corpus.docred import to_json
from lmrc.corpus.reading.fixes import Change, Fix, Fixer, fixed, summary
from lmrc.corpus.reading.format_check import Kind, check_document
from lmrc.corpus.reading.hub_export import in_docred_layout
from lmrc.corpus.relations import DOCRED
from lmrc.corpus.types import Document
from tests.convert.test_malformed import REMOVED, VALUES, paths
from tests.convert.test_malformed import changed as replaced
from tests.corpus.reading.examples import GOOD, changed, mention
from tests.corpus.strategies import corpora


def fix(raw: Any) -> tuple[Any, list[Change]]:
    before = copy.deepcopy(raw)
    result, fixes = Fixer(DOCRED, inclusive_ends=False).fix(raw, 0)
    assert raw == before
    return result, [change.change for change in fixes]


@settings(max_examples=30, deadline=None)
@given(corpora())
def test_good_documents_stay_as_they_are(documents: list[Document]) -> None:
    raw = [to_json(document) for document in documents]
    assert list(fixed(raw, DOCRED, False)) == [(index, document, []) for index, document in enumerate(raw)]


def test_the_end_of_an_empty_span_is_where_its_name_ends() -> None:
    result, changes = fix(changed((mention(0, 0, "pos"), [0, 0]), (mention(1, 0, "pos"), [4, 4])))
    assert result == GOOD
    assert changes == [Change.SET_END] * 2


def test_a_mention_whose_name_is_not_there_is_left_out() -> None:
    result, changes = fix(changed((mention(0, 0, "pos"), [3, 3])))
    assert result["vertexSet"] == [GOOD["vertexSet"][0][1:], GOOD["vertexSet"][1]]
    assert (result["labels"], changes) == (GOOD["labels"], [Change.MENTION])


@pytest.mark.parametrize(("key", "value"), [("pos", [5, 7]), ("pos", [2, 1]), ("pos", [-1, 1]), ("sent_id", 2)])
def test_an_entity_without_mentions_is_left_out_with_its_labels(key: str, value: object) -> None:
    raw = changed((mention(1, 0, key), value))
    raw["vertexSet"].append([{"name": "wrote", "sent_id": 1, "pos": [1, 2], "type": "MISC"}])
    raw["labels"] += [{"h": 2, "t": 0, "r": "P17"}, {"h": 1, "t": 2, "r": "P17"}]
    result, changes = fix(raw)
    assert result["vertexSet"] == [GOOD["vertexSet"][0], raw["vertexSet"][2]]
    assert result["labels"] == [{"h": 1, "t": 0, "r": "P17"}]
    assert changes == [Change.MENTION, Change.ENTITY, Change.LABEL, Change.LABEL]


def test_labels_that_no_entity_or_sentence_fits() -> None:
    labels = [
        {"h": 1, "t": 1, "r": "P17"},
        {"h": 0, "t": 2, "r": "P17"},
        {"h": 0, "t": 1, "r": "Na"},
        {"h": 0, "t": 1, "r": "P17", "evidence": [0, 5]},
    ]
    result, changes = fix(changed((("labels",), labels)))
    assert result["labels"] == [{"h": 0, "t": 1, "r": "P17", "evidence": [0]}]
    assert changes == [Change.LABEL, Change.LABEL, Change.LABEL, Change.EVIDENCE]


def test_a_document_without_entities_is_left_out() -> None:
    assert fix(changed((("vertexSet",), []))) == (None, [Change.DOCUMENT])
    assert fix(changed((("vertexSet",), [[]]))) == (None, [Change.ENTITY, Change.DOCUMENT])


def test_repeated_titles_are_numbered_and_equal_documents_left_out() -> None:
    other = {**GOOD, "labels": []}
    numbered = {**other, "title": "Ada (2)"}
    results = list(fixed([GOOD, GOOD, other, other, numbered, {**GOOD, "title": "Ada (2)"}], DOCRED, False))
    assert [None if raw is None else raw["title"] for _, raw, _ in results] == [
        "Ada", None, "Ada (2)", None, "Ada (2) (2)", "Ada (2) (3)"
    ]  # fmt: skip
    assert [change.change for _, _, fixes in results for change in fixes] == [
        Change.REPEAT, Change.TITLE, Change.REPEAT, Change.TITLE, Change.TITLE
    ]  # fmt: skip


def test_a_number_that_a_title_has_already_is_not_given_again() -> None:
    titles = [{**GOOD, "title": "Ada (2)"}, GOOD, {**GOOD, "labels": []}]
    assert [raw["title"] for _, raw, _ in fixed(titles, DOCRED, False)] == ["Ada (2)", "Ada", "Ada (3)"]


def test_inclusive_ends_are_moved_in_the_whole_file() -> None:
    inclusive = changed((mention(0, 0, "pos"), [0, 1]), (mention(0, 1, "pos"), [0, 0]), (mention(1, 0, "pos"), [4, 4]))
    ((_, result, fixes),) = fixed([inclusive], DOCRED, True)
    assert result == GOOD
    assert [(fix.change, fix.was, fix.now) for fix in fixes[:2]] == [
        (Change.MOVED_END, [0, 1], [0, 2]), (Change.MOVED_END, [0, 0], [0, 1])
    ]  # fmt: skip


@pytest.mark.parametrize(
    "raw",
    [
        [],
        {},
        changed((("title",), 3.5)),
        changed((("sents",), None)),
        changed((("sents", 0), "Ada")),
        changed((("vertexSet", 0), "Ada")),
        changed((mention(0, 0, "pos"), "0")),
        changed((mention(0, 0, "name"), 1.5)),
        changed((("labels",), None)),
        changed((("labels", 0), 3)),
        changed((("labels", 0, "h"), "zero")),
        changed((("labels", 0, "r"), "P0")),
        changed((("labels", 0, "evidence"), [None])),
    ],
)
def test_what_needs_a_guess_is_left_to_the_check(raw: object) -> None:
    assert fix(raw) == (raw, [])
    _, breaches = check_document(raw, DOCRED)
    assert {breach.kind.fixable for breach in breaches} == {False}


@settings(max_examples=60, deadline=None)
@given(corpora(), st.data())
def test_mended_documents_pass_the_check(documents: list[Document], data: st.DataObject) -> None:
    raws = [to_json(document) for document in documents]
    broken = st.integers(-2, 9)
    for raw in raws:
        raw["title"] = data.draw(st.sampled_from(["a", "a (2)", "b"]))
        for part in (x for entity in raw["vertexSet"] for x in entity if data.draw(st.booleans())):
            part["pos"] = [data.draw(broken), data.draw(broken)]
            part["sent_id"] = data.draw(broken)
        for label in (x for x in raw.get("labels", ()) if data.draw(st.booleans())):
            label.update(h=data.draw(broken), t=data.draw(broken), evidence=[data.draw(broken)])
    kept = [raw for _, raw, _ in fixed(raws, DOCRED, False) if raw is not None]
    assert [check_document(raw, DOCRED)[1] for raw in kept] == [[]] * len(kept)
    assert len({raw["title"] for raw in kept}) == len(kept)
    # A mended file needs no further change.
    assert [raw for _, raw, _ in fixed(kept, DOCRED, False)] == kept
    counts = Counter(change.change for _, _, fixes in fixed(raws, DOCRED, False) for change in fixes)
    assert counts[Change.REPEAT] + counts[Change.DOCUMENT] == len(raws) - len(kept)


def test_every_fixable_kind_is_mended() -> None:
    assert {kind for kind in Kind if not kind.fixable} == {Kind.FORM, Kind.RELATION}


def test_summary_and_line() -> None:
    assert (
        summary(Counter({Change.LABEL: 1, Change.SET_END: 1_200})) == "1,200 ends of empty spans set, 1 label left out"
    )
    line = Fix(3, "Müller", Change.LABEL, "h and t", {"h": 1}).line()
    assert line.endswith("\n") and "Müller" in line
    assert json.loads(line) == {
        "document": 3, "title": "Müller", "change": "label left out", "why": "h and t", "was": {"h": 1}, "now": None
    }  # fmt: skip


def test_missing_keys_are_set() -> None:
    raw = changed((mention(1, 0, "type"), None), (("title",), None))
    del raw["vertexSet"][0][0]["name"], raw["vertexSet"][0][1]["type"]
    for breach in check_document(raw, DOCRED)[1]:
        assert breach.kind is Kind.MISSING and breach.kind.fixable
    result, fixes = Fixer(DOCRED, inclusive_ends=False).fix(raw, 7)
    assert result == changed(
        (("title",), "document 7"), (mention(0, 1, "type"), "ENTITY"), (mention(1, 0, "type"), "ENTITY")
    )
    assert [(fix.change, fix.was, fix.now) for fix in fixes] == [
        (Change.KEY, None, "Ada Lovelace"),
        (Change.KEY, None, "ENTITY"),
        (Change.KEY, None, "ENTITY"),
        (Change.KEY, None, "document 7"),
    ]


def test_a_name_is_the_tokens_up_to_an_inclusive_end() -> None:
    raw = changed((mention(0, 0, "pos"), [0, 1]), (mention(0, 1, "pos"), [0, 0]), (mention(1, 0, "pos"), [4, 4]))
    del raw["vertexSet"][0][0]["name"]
    result, fixes = Fixer(DOCRED, inclusive_ends=True).fix(raw, 0)
    assert result == GOOD
    assert [fix.change for fix in fixes] == [Change.KEY, *[Change.MOVED_END] * 3]


def test_a_mention_without_a_name_and_a_span_is_left_out() -> None:
    raw = changed((mention(0, 0, "pos"), [3, 3]))
    del raw["vertexSet"][0][0]["name"]
    result, changes = fix(raw)
    assert (result["vertexSet"][0], changes) == (GOOD["vertexSet"][0][1:], [Change.MENTION])


def test_values_are_written_in_the_form_before_anything_else() -> None:
    labels = [{"h": "1", "t": 1.0, "r": "country"}, {"h": "0", "t": "1", "r": "residence", "evidence": ["0", "9"]}]
    result, changes = fix(changed((("labels",), labels)))
    assert result == GOOD
    # Three values of the first label, which is then left out, and four of the second.
    assert changes == [*[Change.VALUE] * 7, Change.LABEL, Change.EVIDENCE]


OTHER_VALUES = ("0", 0, 2.0, [0, 1], ["0", "9"], [5, 5], [9, 9], "country", "Na", [-1], [0, 0])


def test_what_the_check_calls_fixable_is_mended_and_nothing_else_is_changed() -> None:
    cases = [(place, value) for place in paths(GOOD) for value in (REMOVED, *VALUES, *OTHER_VALUES)]
    assert len(cases) > 1000
    for place, value in cases:
        raw = in_docred_layout(replaced(GOOD, place, value))
        breaches = check_document(raw, DOCRED)[1]
        result, fixes = Fixer(DOCRED, inclusive_ends=False).fix(raw, 0)
        left = [] if result is None else check_document(result, DOCRED)[1]
        if all(breach.kind.fixable for breach in breaches):
            assert not left, f"{place} = {value!r}: {left[0].problem}"
        elif not any(breach.kind.fixable for breach in breaches):
            assert left, f"{place} = {value!r} was mended in silence"
        if not breaches:
            assert not fixes, f"{place} = {value!r} was no breach, but {fixes[0].why}"
