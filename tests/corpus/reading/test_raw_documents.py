from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from lmrc.common.errors import UserError
from lmrc.corpus.docred import read_documents, to_json
from lmrc.corpus.reading.raw_documents import RawDocuments, is_without_list
from lmrc.corpus.relations import DOCRED
from lmrc.corpus.types import Document
from tests.corpus.reading.examples import GOOD
from tests.corpus.strategies import corpora

COLUMNS = ("head", "tail", "relation_id", "evidence")


def forms(folder: Path, raw: list[dict[str, Any]]) -> list[Path]:
    """Write documents in each form that is read, and return the files."""
    listed, lines = json.dumps(raw).encode(), "".join(f"{json.dumps(each)}\n" for each in raw).encode()
    contents = {
        "a.json": listed,
        "b.json.gz": gzip.compress(listed),
        "c.jsonl": lines,
        "d.jsonl.gz": gzip.compress(lines),
        # The content decides, not the name.
        "e.jsonl": json.dumps(raw, indent=1).encode(),
        "f.json": gzip.compress(lines),
        "g": b"\xef\xbb\xbf" + "\n\n".join(json.dumps(each, indent=1) for each in raw).replace("\n", "\r\n").encode(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    pq.write_table(pa.Table.from_pylist(raw, schema=schema(raw)), folder / "h.parquet", row_group_size=2)
    return [*(folder / name for name in contents), folder / "h.parquet"]


def schema(raw: list[dict[str, Any]]) -> pa.Schema:
    mention = pa.struct({"name": pa.string(), "sent_id": pa.int32(), "pos": pa.list_(pa.int32()), "type": pa.string()})
    label = pa.struct({"h": pa.int32(), "t": pa.int32(), "r": pa.string(), "evidence": pa.list_(pa.int32())})
    fields = {
        "index": pa.int64(),
        "title": pa.string(),
        "sents": pa.list_(pa.list_(pa.string())),
        "vertexSet": pa.list_(pa.list_(mention)),
    }
    has_labels = any("labels" in each for each in raw)
    return pa.schema(fields | ({"labels": pa.list_(label)} if has_labels else {}))


@settings(max_examples=15, deadline=None)
@given(corpora())
def test_all_forms_hold_the_same_documents(tmp_path_factory: pytest.TempPathFactory, documents: list[Document]) -> None:
    for path in forms(tmp_path_factory.mktemp("d"), [to_json(document) for document in documents]):
        assert list(read_documents(path, DOCRED)) == documents, path.name
        assert is_without_list(path) == (
            path.suffix == ".parquet" or path.name in ("c.jsonl", "d.jsonl.gz", "f.json", "g")
        )


def test_parquet_of_the_hub_has_columns_of_labels(tmp_path: Path) -> None:
    labels = {"head": [0], "tail": [1], "relation_id": ["P551"], "relation_text": ["residence"], "evidence": [[0]]}
    pq.write_table(pa.Table.from_pylist([{**GOOD, "labels": labels}]), tmp_path / "train-00000-of-00001.parquet")
    (tmp_path / "docs.json").write_text(json.dumps([GOOD]))
    listed, hub = (
        list(read_documents(tmp_path / name, DOCRED)) for name in ("docs.json", "train-00000-of-00001.parquet")
    )
    assert hub == listed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"data": [1], "version": 2}',
            "document 0 is an object with 'data', 'version', which is no document; expected documents",
        ),
        ("{}", "an object with no keys"),
        ('{"message": "Not Found"}', "an object with 'message'"),
        ('[{"title": "x", "h_idx": 0}]', "document 0 is an object with 'title', 'h_idx', which is no document"),
        ("404: Not Found", "is not JSON: it begins with '404: Not Found'"),
        ("nobody", "is not JSON: it begins with 'nobody'"),
        ("-1.5e3", "holds a number"),
        ("title,text\nA,b", "is not JSON: it begins with 'title,text A,b'"),
        ("<?xml version='1.0'?><Error/>", "is not JSON: it is XML"),
        (json.dumps(GOOD) + "\n" + json.dumps(GOOD)[:-9], "the file is cut off, after 1 documents"),
        (json.dumps(GOOD) + ",\n" + json.dumps(GOOD), "is not valid JSON .* after 1 documents"),
    ],
)
def test_other_content_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "docs.json").write_text(content)
    with pytest.raises(UserError, match=f"docs.json: .*{message}") as error:
        list(RawDocuments(tmp_path / "docs.json"))
    assert "\n" not in str(error.value)


def test_parquet_of_other_data_and_damaged_parquet(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"text": ["a"], "title": ["b"]}), path)
    with pytest.raises(UserError, match=r"x.parquet: .* columns text, title; expected .* \(sents, vertexSet missing\)"):
        list(RawDocuments(path))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"x\.parquet: damaged Parquet file \(.*\); fetch it again"):
        list(RawDocuments(path))


def test_folders_say_which_file_to_give(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder, expected a file or a folder of shards$"):
        RawDocuments(tmp_path)
    (tmp_path / "train.json").touch()
    with pytest.raises(UserError, match=r"shards: give one of its files, such as .*train\.json"):
        RawDocuments(tmp_path)
    (tmp_path / "manifest.json").touch()
    with pytest.raises(UserError, match="it was written by lmrc, such as a corpus"):
        RawDocuments(tmp_path)
    (tmp_path / "dataset_info.json").touch()
    with pytest.raises(UserError, match="written by save_to_disk of the datasets library"):
        RawDocuments(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {"data": [GOOD, {**GOOD, "title": "B"}], "version": "1.0"},
        {"version": 1, "empty": [], "documents": [GOOD, {**GOOD, "title": "B"}]},
        {"Ada": {key: value for key, value in GOOD.items() if key != "title"}, "x": {**GOOD, "title": "B"}},
        [[GOOD], [{**GOOD, "title": "B"}]],
        [GOOD, [{**GOOD, "title": "B"}]],
    ],
)
def test_documents_inside_of_something(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "docs.json"
    path.write_text(json.dumps(content))
    assert list(RawDocuments(path)) == [GOOD, {**GOOD, "title": "B"}]


def test_texts_inside_of_something_are_no_documents(tmp_path: Path) -> None:
    path = tmp_path / "docs.json"
    path.write_text(json.dumps({"id": "1", "passages": [{"offset": 0, "text": "Ada."}]}))
    with pytest.raises(UserError, match=r"is an object with 'id', 'passages', .* it looks like bioc"):
        list(RawDocuments(path, ("sents", "vertexSet", "text")))


def test_several_lists_of_documents(tmp_path: Path) -> None:
    path = tmp_path / "docs.json"
    path.write_text(json.dumps({"train": [GOOD], "dev": [GOOD]}))
    with pytest.raises(UserError, match=r"holds 2 lists of documents, 'train', 'dev': write each to a file of its own"):
        list(RawDocuments(path))


@pytest.mark.parametrize("column", [lambda value: {"0": value}, lambda value: [value]])
def test_columns_of_a_table(tmp_path: Path, column: Any) -> None:
    path = tmp_path / "docs.json"
    path.write_text(json.dumps({key: column(value) for key, value in GOOD.items()}))
    with pytest.raises(UserError, match=r"docs.json: holds columns of a table.*orient='records', lines=True"):
        list(RawDocuments(path))


def test_mistakes_in_the_json_are_named(tmp_path: Path) -> None:
    path = tmp_path / "docs.json"
    path.write_text(json.dumps([GOOD])[:-1] + ",\n]")
    with pytest.raises(UserError, match=r"a comma before a closing \]; remove it\) after 1 documents"):
        list(RawDocuments(path))
    path.write_text(json.dumps([{**GOOD, "score": float("nan")}]))
    with pytest.raises(UserError, match="NaN is no JSON; write null"):
        list(RawDocuments(path))
