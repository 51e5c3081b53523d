from __future__ import annotations

import copy
import gzip
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrc.common.errors import DocumentError, UserError
from lmrc.corpus.docred import candidate_pairs, parse_document, read_documents, relations_by_pair, to_json
from lmrc.corpus.reading.breach_list import FormatError
from lmrc.corpus.reading.format_check import Kind
from lmrc.corpus.relations import DOCRED
from lmrc.corpus.types import Document, Label, Mention
from tests.corpus.strategies import corpora, documents

GOOD: dict[str, Any] = {
    "title": "Ada",
    "sents": [["Ada", "Lovelace", "lived", "in", "London", "."], ["She", "wrote", "."]],
    "vertexSet": [
        [
            {"name": "Ada Lovelace", "sent_id": 0, "pos": [0, 2], "type": "PER"},
            {"name": "She", "sent_id": 1, "pos": [0, 1], "type": "PER"},
        ],
        [{"name": "London", "sent_id": 0, "pos": [4, 5], "type": "LOC"}],
    ],
    "labels": [{"h": 0, "t": 1, "r": "P551", "evidence": [0]}],
}


def parse(raw: object) -> Document:
    return parse_document(raw, "docs.json", 7, DOCRED)


def changed(path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    raw = copy.deepcopy(GOOD)
    parent: Any = raw
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return raw


def without(path: tuple[str | int, ...]) -> dict[str, Any]:
    raw = changed(path, None)
    parent: Any = raw
    for key in path[:-1]:
        parent = parent[key]
    del parent[path[-1]]
    return raw


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_parse_document() -> None:
    assert parse(GOOD) == Document(
        "Ada",
        (("Ada", "Lovelace", "lived", "in", "London", "."), ("She", "wrote", ".")),
        (
            (Mention("Ada Lovelace", 0, 0, 2, "PER"), Mention("She", 1, 0, 1, "PER")),
            (Mention("London", 0, 4, 5, "LOC"),),
        ),
        (Label(0, 1, "P551", (0,)),),
    )


MENTION = ("vertexSet", 0, 0)
LABEL = ("labels", 0)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (without(("title",)), "title is missing"),
        (without(("sents",)), "sents is missing"),
        (without(("vertexSet",)), "vertexSet is missing"),
        (without((*MENTION, "name")), "mention 0 of entity 0: name is missing"),
        (without((*MENTION, "sent_id")), "sent_id is missing"),
        (without((*MENTION, "pos")), "pos is missing"),
        (without((*MENTION, "type")), "type is missing"),
        (without((*LABEL, "h")), "label 0: h is missing"),
        (without((*LABEL, "t")), "t is missing"),
        (without((*LABEL, "r")), "r is missing"),
        (changed(("title",), 3), "title is the number 3, expected a string"),
        (changed(("sents",), "Ada"), "sents is a string, expected a list"),
        (changed(("sents", 1), "Ada"), "sentence 1 is a string, expected a list of tokens"),
        (changed(("sents", 1, 0), None), "token 0 of sentence 1 is null, expected a string"),
        (changed(("vertexSet",), []), "vertexSet is empty"),
        (changed(("vertexSet",), {}), "vertexSet is an object, expected a list"),
        (changed(("vertexSet", 1), []), "entity 1 has no mentions"),
        (changed(("vertexSet", 1), {}), "entity 1 is an object"),
        (changed(MENTION, "Ada"), "mention 0 of entity 0 is a string"),
        (changed((*MENTION, "name"), None), "name is null, expected a string"),
        (changed((*MENTION, "type"), []), "type is a list, expected a string"),
        (changed((*MENTION, "sent_id"), 2), "sent_id is 2, but the document has 2 sentences"),
        (changed((*MENTION, "sent_id"), -1), "sent_id is -1"),
        (changed((*MENTION, "sent_id"), True), "sent_id is true or false, expected a whole number"),
        (changed((*MENTION, "sent_id"), 0.0), "sent_id is the number 0.0, expected a whole number"),
        (changed((*MENTION, "pos"), [0]), r"pos is \[0\], expected two whole numbers"),
        (changed((*MENTION, "pos"), [0, "1"]), "expected two whole numbers"),
        (changed((*MENTION, "pos"), [0, 1, 2]), "expected two whole numbers"),
        (changed((*MENTION, "pos"), [-1, 1]), "expected 0 <= start < end <= 6"),
        (changed((*MENTION, "pos"), [2, 2]), "expected 0 <= start < end <= 6"),
        (changed((*MENTION, "pos"), [2, 1]), "expected 0 <= start < end <= 6"),
        (changed((*MENTION, "pos"), [5, 7]), "expected 0 <= start < end <= 6, the length of sentence 0"),
        (changed(("labels",), "none"), "labels is a string, expected a list"),
        (changed(LABEL, 3), "label 0 is the number 3"),
        (changed((*LABEL, "h"), 2), "h is 2, but the document has 2 entities"),
        (changed((*LABEL, "t"), -1), "t is -1, but the document has 2 entities"),
        (changed((*LABEL, "t"), "1"), "t is a string, expected a whole number"),
        (changed((*LABEL, "t"), 0), "h and t are both 0"),
        (changed((*LABEL, "r"), "P5511"), r"unknown relation 'P5511'; did you mean P551\?"),
        (changed((*LABEL, "evidence"), [2]), "evidence names the number 2, but the document has 2 sentences"),
        (changed((*LABEL, "evidence"), [False]), "evidence names true or false"),
        (changed((*LABEL, "evidence"), 0), "evidence is the number 0, expected a list"),
    ],
)
def test_format_errors_name_the_field(raw: object, message: str) -> None:
    with pytest.raises(DocumentError, match=f"^docs.json: document 7 \\(.*\\): .*{message}"):
        parse(raw)


def test_error_of_a_document_names_three_breaches_and_counts_the_rest() -> None:
    labels = [{"h": 0, "t": 0, "r": "P17"}] * 5
    with pytest.raises(DocumentError, match=r"label 0: .*; label 1: .*; label 2: .*; and 2 more$") as error:
        parse(changed(("labels",), labels))
    assert "\n" not in str(error.value)


def test_error_names_the_title() -> None:
    with pytest.raises(DocumentError, match=r"\('Ada'\)"):
        parse(changed(("vertexSet",), []))
    others: tuple[object, ...] = (3, [], without(("title",)), changed(("title",), 3))
    for raw in others:
        with pytest.raises(DocumentError, match=r"\(without a title\)"):
            parse(raw)


@pytest.mark.parametrize(
    "raw",
    [
        changed((*MENTION, "name"), "Augusta"),
        changed((*MENTION, "global_pos"), [0, 0]),
        changed(("vertexSet", 0, 1), GOOD["vertexSet"][0][0]),
        changed(("sents", 0, 0), "\u00a0"),
        changed(("sents", 1), ["She"]),
        changed(("index",), 3),
    ],
    ids=["name that differs", "extra key", "two equal mentions", "white space", "shorter sentence", "extra"],
)
def test_irregularities_of_real_data_are_accepted(raw: object) -> None:
    parse(raw)


def test_absent_labels_differ_from_empty_labels() -> None:
    assert parse(without(("labels",))).labels is None
    # A data set of the hub has no absent keys.
    assert parse(changed(("labels",), None)) == parse(without(("labels",)))
    assert parse(changed(("labels",), [])).labels == ()
    assert "labels" not in to_json(parse(without(("labels",))))
    assert to_json(parse(changed(("labels",), [])))["labels"] == []


def test_labels_are_ignored_without_a_relation_set(tmp_path: Path) -> None:
    file = tmp_path / "docs.json"
    file.write_text(json.dumps([{**GOOD, "labels": [{"h": 7, "r": "unheard of"}]}, {**GOOD, "title": "Bob"}]))
    read = list(read_documents(file, None))
    assert [document.labels for document in read] == [None, None]
    assert read[0].entities == parse_document(GOOD, "f", 0, DOCRED).entities


def test_absent_evidence_is_empty() -> None:
    assert parse(without((*LABEL, "evidence"))).labels == (Label(0, 1, "P551", ()),)


def test_repeated_labels_are_merged_and_counted() -> None:
    labels = [
        {"h": 0, "t": 1, "r": "P551", "evidence": [1]},
        {"h": 1, "t": 0, "r": "P551", "evidence": []},
        {"h": 0, "t": 1, "r": "P551", "evidence": [0, 1]},
        {"h": 0, "t": 1, "r": "P551"},
    ]
    document = parse(changed(("labels",), labels))
    assert document.labels == (Label(0, 1, "P551", (1, 0)), Label(1, 0, "P551", ()))
    assert document.duplicate_labels == 2
    assert parse(GOOD).duplicate_labels == 0


@settings(max_examples=40, deadline=None)
@given(documents())
def test_json_round_trips(document: Document) -> None:
    assert parse_document(json.loads(json.dumps(to_json(document))), "x", 0, DOCRED) == document


@settings(max_examples=25, deadline=None)
@given(corpora())
def test_file_round_trips(tmp_path_factory: pytest.TempPathFactory, given: list[Document]) -> None:
    path = write(tmp_path_factory.mktemp("d") / "docs.json", [to_json(document) for document in given])
    assert list(read_documents(path, DOCRED)) == given


def test_gzipped_file(tmp_path: Path) -> None:
    (tmp_path / "docs.json.gz").write_bytes(gzip.compress(json.dumps([GOOD]).encode()))
    assert list(read_documents(tmp_path / "docs.json.gz", DOCRED)) == [parse(GOOD)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (" \n\t", "is empty"),
        ("PK\x03", "is not JSON"),
        ("# Title", "is not JSON"),
        ('"text"', "holds a string, expected documents in DocRED's format: a JSON list, or JSON Lines"),
        ("12", "holds a number, expected documents"),
        ("null", "holds null, expected documents"),
        ("[1]", r"document 0 \(without a title\): is the number 1, expected an object"),
        (json.dumps([GOOD])[:-1], "the file is cut off, after 1 documents"),
        (json.dumps([GOOD])[:-40], "the file is cut off, after 0 documents"),
        (json.dumps([GOOD]) + "]", "is not valid JSON .* after 1 documents"),
        ("[{'title': 1}]", "is not JSON, but Python's notation with single quotes: write it by json.dump"),
        ('[{"title": nan}]', "is not valid JSON"),
        (json.dumps([GOOD])[:-1] + " {}]", "is not valid JSON .* after 1 documents"),
    ],
)
def test_files_without_a_list_of_documents_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "docs.json").write_text(content)
    with pytest.raises(UserError, match=f"docs.json: .*{message}") as error:
        list(read_documents(tmp_path / "docs.json", DOCRED))
    assert "\n" not in str(error.value)


def test_invalid_utf8(tmp_path: Path) -> None:
    (tmp_path / "docs.json").write_bytes(b'[{"title": "\xff"}]')
    with pytest.raises(UserError, match=r"docs\.json: is not UTF-8: byte 0xff at position 12 is invalid; convert it"):
        list(read_documents(tmp_path / "docs.json", DOCRED))


def test_one_error_names_all_breaches_of_a_file(tmp_path: Path) -> None:
    empty, itself = changed((*MENTION, "pos"), [2, 2]), changed((*LABEL, "t"), 0)
    path = write(
        tmp_path / "docs.json", [GOOD, *({**raw, "title": str(i)} for i, raw in enumerate([empty] * 5 + [itself]))]
    )
    reader = read_documents(path, DOCRED)
    assert next(reader).title == "Ada"
    with pytest.raises(FormatError) as error:
        next(reader)
    assert error.value.counts == {Kind.EMPTY_SPAN: 5, Kind.SELF: 1}
    text = str(error.value)
    assert "6 breaches of DocRED's format in 6 of 7 documents" in text
    assert "5 empty spans" in text and "1 label of an entity with itself" in text
    assert "document 1 ('0'): mention 0 of entity 0: pos is [2, 2]" in text and "and 2 more" in text
    assert "document 6 ('5'): label 0: h and t are both 0" in text


def test_breaches_before_damage_are_named_too(tmp_path: Path) -> None:
    path = tmp_path / "docs.json"
    path.write_text(json.dumps([changed(("vertexSet",), []), GOOD])[:-1])
    with pytest.raises(FormatError, match=r"vertexSet is empty(.|\n)*end cannot be read: .*cut off, after 2 documents"):
        list(read_documents(path, DOCRED))


def test_documents_after_a_breach_are_not_yielded(tmp_path: Path) -> None:
    path = write(tmp_path / "docs.json", [changed(("vertexSet",), []), {**GOOD, "title": "Bob"}])
    with pytest.raises(FormatError, match="vertexSet is empty"):
        next(read_documents(path, DOCRED))


def test_an_empty_list_has_no_documents(tmp_path: Path) -> None:
    assert list(read_documents(write(tmp_path / "docs.json", []), DOCRED)) == []


def test_repeated_title_is_refused_with_both_indices(tmp_path: Path) -> None:
    other = {**GOOD, "title": "Other"}
    path = write(tmp_path / "docs.json", [other, GOOD, GOOD])
    reader = read_documents(path, DOCRED)
    assert [next(reader).title, next(reader).title] == ["Other", "Ada"]
    with pytest.raises(DocumentError, match=r"document 2 \('Ada'\): document 1 has the same title"):
        next(reader)


def test_documents_are_streamed(tmp_path: Path) -> None:
    # Documents before an error are yielded before it is raised.
    good = [{**GOOD, "title": str(index)} for index in range(200)]
    path = tmp_path / "docs.json"
    path.write_text(json.dumps(good)[:-1] + ", oops")
    reader = read_documents(path, DOCRED)
    assert next(reader).title == "0"
    with pytest.raises(UserError, match="not valid JSON"):
        list(reader)


@given(st.integers(0, 7))
def test_candidate_pairs_are_all_ordered_pairs(entities: int) -> None:
    assert candidate_pairs(entities) == sorted(itertools.permutations(range(entities), 2))


def test_relations_by_pair() -> None:
    labels = (Label(2, 0, "P17"), Label(0, 1, "P6"), Label(2, 0, "P6"), Label(2, 0, "P17", (1,)))
    document = Document("t", (), (), labels)
    gold = relations_by_pair(document)
    assert gold == {(0, 1): ("P6",), (2, 0): ("P17", "P6")}
    assert list(gold) == [(0, 1), (2, 0)]
    assert relations_by_pair(Document("t", (), (), None)) == {}


def test_real_documents_are_all_read(shared_data: Path) -> None:
    for name, count, triples in (("redocred_dev.json", 500, 17_284), ("redocred_train_992.json", 992, 28_146)):
        read = list(read_documents(shared_data / name, DOCRED))
        assert len(read) == count
        assert sum(len(document.labels or ()) for document in read) == triples
        raw = json.loads((shared_data / name).read_text())
        assert [document.title for document in read] == [document["title"] for document in raw]
