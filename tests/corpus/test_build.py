from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmrc.common.errors import UserError
from lmrc.corpus.build import build_corpus, sample
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.docred import parse_document, to_json
from lmrc.corpus.reading.breach_list import FormatError
from lmrc.corpus.reading.format_check import Kind
from lmrc.corpus.relations import DOCRED
from lmrc.corpus.synthetic.generator import RELATIONS, generate
from tests.corpus.reading.examples import GOOD, changed, mention


@given(documents=st.integers(0, 2000), share=st.floats(0, 1), seed=st.integers(0, 10**6))
def test_sample_is_unique_and_ordered(documents: int, share: float, seed: int) -> None:
    count = round(documents * share)
    drawn = sample(documents, count, seed)
    assert drawn == sorted(set(drawn))
    assert len(drawn) == count
    assert set(drawn) <= set(range(documents))
    assert drawn == sample(documents, count, seed)


def test_sample_is_uniform() -> None:
    # 100 of the 998 documents of DocRED's dev set.
    times = Counter(index for seed in range(2000) for index in sample(998, 100, seed))
    expected = 2000 * 100 / 998
    assert len(times) == 998
    assert max(abs(count - expected) for count in times.values()) < 5 * expected**0.5


def test_sample_larger_than_the_corpus() -> None:
    with pytest.raises(UserError, match="cannot sample 101 documents of 100: give at most 100"):
        sample(100, 101, 0)


def test_corpus_of_sampled_documents(tmp_path: Path) -> None:
    documents = list(generate(12, seed=3))
    (tmp_path / "docs.json").write_text(json.dumps([to_json(document) for document in documents]))
    names = dict(zip(RELATIONS.ids, RELATIONS.names, strict=True))
    (tmp_path / "relations.json").write_text(json.dumps(names))
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        build_corpus(tmp_path / "docs.json", tmp_path / out, tmp_path / "relations.json", sample_size=5, seed=seed)
    a, b, c = ([document.title for document in Corpus.open(tmp_path / name)] for name in "abc")
    assert a == b != c
    assert a == [documents[index].title for index in sample(12, 5, 1)]
    assert Corpus.open(tmp_path / "a").manifest.source == "docs.json, 5 drawn by seed 1"
    with pytest.raises(UserError, match="cannot sample 13 documents of 12"):
        build_corpus(tmp_path / "docs.json", tmp_path / "d", tmp_path / "relations.json", sample_size=13)
    assert not (tmp_path / "d").exists()


def write(path: Path, raw: list[object]) -> Path:
    path.write_text(json.dumps(raw))
    return path


BROKEN: list[object] = [
    GOOD,
    changed((("title",), "empty"), (mention(1, 0, "pos"), [4, 4])),
    changed((("title",), "self"), (("labels",), [*GOOD["labels"], {"h": 1, "t": 1, "r": "P17"}])),
    changed((("labels",), [])),
]


def test_nothing_is_mended_unasked(tmp_path: Path) -> None:
    path = write(tmp_path / "docs.json", BROKEN)
    with pytest.raises(FormatError) as error:
        build_corpus(path, tmp_path / "c")
    assert error.value.counts == {Kind.EMPTY_SPAN: 1, Kind.SELF: 1, Kind.TITLE: 1}
    command = f"lmrc data build {path} --out {tmp_path / 'c'} --fix mends all of them"
    assert command in str(error.value) and str(tmp_path / "c.fixes.jsonl") in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["docs.json"]


def test_fix_writes_what_it_did_and_says_it_in_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "docs.json", BROKEN)
    with caplog.at_level("INFO"):
        manifest = build_corpus(path, tmp_path / "c", fix=True)
    assert (manifest.source, manifest.documents, manifest.triples) == ("docs.json, mended", 4, 3)
    assert [document.title for document in Corpus.open(tmp_path / "c")] == ["Ada", "empty", "self", "Ada (2)"]
    (message,) = caplog.messages
    assert message == (
        f"{path}: mended: 1 end of an empty span set, 1 label left out, 1 repeated title numbered; each change is in "
        f"{tmp_path / 'c.fixes.jsonl'}"
    )
    lines = [json.loads(line) for line in (tmp_path / "c.fixes.jsonl").read_text().splitlines()]
    assert [(line["document"], line["title"], line["now"]) for line in lines] == [
        (1, "empty", [4, 5]), (2, "self", None), (3, "Ada", "Ada (2)")
    ]  # fmt: skip


def test_a_sample_of_a_mended_file_records_each_change_once(tmp_path: Path) -> None:
    path = write(tmp_path / "docs.json", BROKEN)
    manifest = build_corpus(path, tmp_path / "c", sample_size=2, fix=True)
    assert (manifest.documents, manifest.source) == (2, "docs.json, mended, 2 drawn by seed 66")
    assert len((tmp_path / "c.fixes.jsonl").read_text().splitlines()) == 3


def test_documents_that_are_left_out_do_not_shift_samples_and_messages(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "docs.json", [GOOD, GOOD, changed((("title",), "x"), (mention(1, 0, "pos"), [3, 4]))])
    assert build_corpus(path, tmp_path / "c", sample_size=2, fix=True).documents == 2
    assert "(document 2 ('x'), mention 0 of entity 1)" in caplog.text


def test_fix_refuses_what_it_cannot_mend_and_leaves_no_file(tmp_path: Path) -> None:
    path = write(tmp_path / "docs.json", [*BROKEN, changed((("title",), "x"), (("labels", 0, "r"), "P0"))])
    for fix in (False, True):
        with pytest.raises(FormatError, match="unknown relation 'P0'") as error:
            build_corpus(path, tmp_path / "c", fix=fix)
        assert ("--fix mends 3 of them" in str(error.value)) == (not fix)
    assert [file.name for file in tmp_path.iterdir()] == ["docs.json"]


def test_nothing_to_mend(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "c.fixes.jsonl").write_text("of an earlier corpus of this name")
    with caplog.at_level("INFO"):
        build_corpus(write(tmp_path / "docs.json", [GOOD]), tmp_path / "c", fix=True)
    assert caplog.messages == [f"{tmp_path / 'docs.json'}: nothing to mend"]
    assert not (tmp_path / "c.fixes.jsonl").exists()


INCLUSIVE = changed((mention(0, 0, "pos"), [0, 1]), (mention(0, 1, "pos"), [0, 0]), (mention(1, 0, "pos"), [4, 4]))


def test_inclusive_ends_are_told_and_moved_on_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "docs.json", [INCLUSIVE])
    with pytest.raises(
        FormatError, match=r"2 empty spans:(.|\n)*all names fit if pos is \[first token, last token\]; lmrc"
    ):
        build_corpus(path, tmp_path / "c")
    with caplog.at_level("INFO"):
        build_corpus(path, tmp_path / "c", fix=True)
    assert "mended: 3 inclusive ends moved" in caplog.text and "WARNING" not in caplog.text
    assert list(Corpus.open(tmp_path / "c")) == [parse_document(GOOD, "x", 0, DOCRED)]


def test_names_that_are_not_the_tokens_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "docs.json", [GOOD, changed((("title",), "shifted"), (mention(1, 0, "pos"), [3, 4]))])
    build_corpus(path, tmp_path / "c")
    (message,) = caplog.messages
    assert f"{path}: 1 of 6 mentions have a name that is not the tokens at their pos" in message
    assert "'London' at [3, 4] is 'in' (document 1 ('shifted'), mention 0 of entity 1)" in message


def test_labels_without_any_triple_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    columns: dict[str, list[object]] = {"head": [], "tail": [], "relation_id": [], "relation_text": [], "evidence": []}
    build_corpus(write(tmp_path / "docs.json", [changed((("labels",), columns))]), tmp_path / "c")
    assert "all 1 documents have labels, but none has a triple" in caplog.text
    caplog.clear()
    unlabeled = {key: value for key, value in GOOD.items() if key != "labels"}
    build_corpus(write(tmp_path / "docs.json", [unlabeled]), tmp_path / "d")
    assert caplog.messages == []


def test_inclusive_ends_are_seen_behind_values_of_another_type(tmp_path: Path) -> None:
    ends = {(0, 0): ["0", "1"], (0, 1): ["0", "0"], (1, 0): ["4", "4"]}
    raw = changed(*((mention(*place, "pos"), pos) for place, pos in ends.items()))
    build_corpus(write(tmp_path / "docs.json", [raw]), tmp_path / "c", fix=True)
    assert list(Corpus.open(tmp_path / "c")) == [parse_document(GOOD, "x", 0, DOCRED)]


def test_the_command_that_mends_may_be_another(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(FormatError, match=r"\nlmrc pipeline --data\.fix mends all of them"):
        build_corpus(write(tmp_path / "a.json", BROKEN), tmp_path / "c", fix_command="lmrc pipeline --data.fix")
    # Ends that fit [start, end) too are no breach, but a warning.
    raw = changed((mention(0, 0, "pos"), [0, 1]), (mention(0, 1, "pos"), [0, 0]), (mention(1, 0, "pos"), [4, 4]))
    raw["vertexSet"] = [[raw["vertexSet"][0][0]], [{**raw["vertexSet"][0][0]}]]
    build_corpus(write(tmp_path / "b.json", [raw]), tmp_path / "d")
    assert "All names fit if pos is [first token, last token]: --fix moves the ends" in caplog.text


def test_evidence_may_be_null(tmp_path: Path) -> None:
    path = write(tmp_path / "docs.json", [changed((("labels", 0, "evidence"), None))])
    assert build_corpus(path, tmp_path / "c").triples == 1
    (document,) = Corpus.open(tmp_path / "c")
    assert document.labels is not None and document.labels[0].evidence == ()


def test_a_file_of_which_nothing_is_left(tmp_path: Path) -> None:
    path = write(tmp_path / "docs.json", [changed((("vertexSet",), []))] * 2)
    message = r"--fix would leave out all 2 documents: 2 documents without entities left out"
    with pytest.raises(UserError, match=message):
        build_corpus(path, tmp_path / "c", fix=True)
    assert [file.name for file in tmp_path.iterdir()] == ["docs.json"]
