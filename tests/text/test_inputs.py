from __future__ import annotations

import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmrc.common.errors import UserError
from lmrc.text.backends import GivenOnly
from lmrc.text.entity_types import TypeMap
from lmrc.text.inputs import DocumentReader, RawDocument, check_raw, read_raw
from lmrc.text.rules import RuleFinder

DOCRED = {
    "title": "d",
    "sents": [["Ada", "left", "."]],
    "vertexSet": [[{"name": "Ada", "sent_id": 0, "pos": [0, 1], "type": "PER"}]],
}
GIVEN = {"id": 7, "text": "ada met bly", "mentions": [{"start": 0, "end": 3, "type": "PER"}]}


def read(*contents: Any) -> list[Any]:
    reader = DocumentReader(RuleFinder(), TypeMap(()))
    return [reader.read(RawDocument("f", index, content)) for index, content in enumerate(contents)]


def test_texts_given_mentions_and_docred_documents() -> None:
    found = read({"text": "Ada Lum left."}, GIVEN, DOCRED)
    assert [text.document.title for text in found] == ["text 0", "7", "d"]
    assert [[entity[0].name for entity in text.document.entities] for text in found] == [["Ada Lum"], ["ada"], ["Ada"]]
    assert found[2].text.text == "Ada left ."


def test_the_summary_names_the_backend_and_the_changed_types() -> None:
    reader = DocumentReader(RuleFinder(), TypeMap(()))
    for index, content in enumerate(({"text": "Ada"}, {"text": "Bly"}, {**GIVEN, "entities": []}, DOCRED)):
        reader.read(RawDocument("f", index, content))
    reader.read(RawDocument("f", 5, {"text": "Bly", "mentions": [{"start": 0, "end": 3, "type": "GPE"}]}))
    rules, given, types = reader.summary()
    assert rules.startswith("2 texts: mentions by rules")
    assert given == "2 texts with given mentions"
    assert types == "entity types: 1 GPE as LOC"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"text": 3}, "f: document 0: text is 3, expected a string"),
        (
            {**GIVEN, "mentions": [{}, None]},
            r"f: document 0 \('7'\): 2 breaches:\n  - mentions\[0\] .*\n  - mentions\[1\]",
        ),
        ({"title": "t"}, "document 0 .*sents is missing"),
        (["a"], "document 0"),
    ],
)
def test_breaches_name_the_document(content: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(content)


def test_a_text_a_folder_and_gzip(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_bytes("\ufeffB\r\nb".encode())
    (tmp_path / "sub" / "a.txt").write_text("A")
    (tmp_path / ".hidden.txt").write_text("no")
    (tmp_path / "other.csv").write_text("no")
    found = [(raw.title, raw.content["text"]) for raw in read_raw(tmp_path)]
    assert found == [("b", "B\r\nb"), ("sub/a", "A")]
    packed = tmp_path / "c.txt.gz"
    packed.write_bytes(gzip.compress(b"C"))
    assert [(raw.title, raw.content["text"]) for raw in read_raw(packed)] == [("c", "C")]
    (tmp_path / "latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.txt: is not UTF-8 .*at byte 3"):
        list(read_raw(tmp_path / "latin.txt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"has no file \*\.txt"):
        list(read_raw(tmp_path / "empty"))


def test_json_lists_and_lines(tmp_path: Path) -> None:
    contents = [GIVEN, DOCRED, {"text": "x"}]
    (tmp_path / "a.json").write_text(json.dumps(contents))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(content) + "\n" for content in contents))
    for name in ("a.json", "a.jsonl"):
        assert [raw.content for raw in read_raw(tmp_path / name)] == contents
    (tmp_path / "b.json").write_text(json.dumps([{"data": 1}]))
    with pytest.raises(UserError, match="which is no document"):
        list(read_raw(tmp_path / "b.json"))


def test_shards_are_one_set_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name, contents in (("b-2.jsonl", [DOCRED]), ("b-1.jsonl", [{"text": "Ada"}, GIVEN])):
        (tmp_path / name).write_text("".join(f"{json.dumps(content)}\n" for content in contents))
    raw = list(read_raw(tmp_path))
    assert [(each.index, each.title) for each in raw] == [(0, "text 0"), (1, "7"), (2, "d")]
    (tmp_path / "notes.txt").write_text("Ada")
    with pytest.raises(UserError, match=r"has texts \(notes\.txt\) and shards \(b-1\.jsonl\)"):
        list(read_raw(tmp_path))


def test_parquet_with_texts(tmp_path: Path) -> None:
    mention = {"start": 0, "end": 3, "type": "PER", "id": None}
    rows = [{"title": "a", "text": "ada met bly", "mentions": [mention]}, {"title": None, "text": "Ada Lum left."}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "texts-0.parquet")
    found = read(*(each.content for each in read_raw(tmp_path)))
    assert [text.document.title for text in found] == ["a", "text 1"]
    assert [[entity[0].name for entity in text.document.entities] for text in found] == [["ada"], ["Ada Lum"]]


def test_standard_input_is_read_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream(io.BytesIO):
        lines = 0

        def readline(self, size: int | None = -1, /) -> bytes:
            self.lines += 1
            return super().readline(size)

    stream = Stream(b'{"text": "A"}\n{"text": "B"}\n{"text"')
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))
    source = read_raw(Path("-"))
    assert next(source).content == {"text": "A"}
    assert stream.lines == 1
    next(source)
    with pytest.raises(UserError, match="standard input: line 3 is not JSON"):
        next(source)


def test_the_check_counts_all_documents_with_breaches() -> None:
    def documents(*contents: Any) -> Any:
        return (RawDocument("f", index, content) for index, content in enumerate(contents))

    assert check_raw(documents(DOCRED, GIVEN, {"text": "Ada"}), RuleFinder()) == 3
    with pytest.raises(UserError) as error:
        check_raw(documents(*[{"text": 1}] * 12, DOCRED), RuleFinder())
    lines = str(error.value).splitlines()
    assert (lines[0], lines[-1]) == ("12 of 13 documents break the form:", "and 2 more documents")
    assert len(lines) == 12
    with pytest.raises(UserError, match=r"f: document 1 \('text 1'\) has no mentions"):
        check_raw(documents(GIVEN, {"text": "Ada"}), GivenOnly())
