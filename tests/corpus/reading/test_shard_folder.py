from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmrc.common.errors import UserError
from lmrc.corpus.build import build_corpus
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.docred import to_json
from lmrc.corpus.reading.breach_list import FormatError
from lmrc.corpus.reading.shard_folder import sha256_of_documents, shards
from lmrc.corpus.synthetic.generator import RELATIONS, generate
from tests.corpus.reading.test_raw_documents import schema


def write_shards(folder: Path) -> list[str]:
    """Write three shards, two as JSON Lines and one as Parquet, and return the titles in order."""
    raw = [to_json(document) for document in generate(7, seed=1)]
    folder.mkdir()
    for name, part in (("docs-1.jsonl", raw[3:5]), ("docs-0.jsonl", raw[:3])):
        (folder / name).write_text("".join(f"{json.dumps(document)}\n" for document in part))
    (folder / "README.md").write_text("These are no documents.")
    return [document["title"] for document in raw[:5]]


def relations_in(folder: Path) -> Path:
    names = dict(zip(RELATIONS.ids, RELATIONS.names, strict=True))
    (folder / "relations.json").write_text(json.dumps(names))
    return folder / "relations.json"


def test_a_corpus_of_shards(tmp_path: Path) -> None:
    titles = write_shards(tmp_path / "docs")
    manifest = build_corpus(tmp_path / "docs", tmp_path / "out", relations_in(tmp_path))
    assert [document.title for document in Corpus.open(tmp_path / "out")] == titles
    assert manifest.source_sha256 == sha256_of_documents(tmp_path / "docs")


def test_a_corpus_of_parquet_shards(tmp_path: Path) -> None:
    raw = [to_json(document) for document in generate(4, seed=1)]
    (tmp_path / "docs").mkdir()
    for index, part in enumerate((raw[:3], raw[3:])):
        file = tmp_path / "docs" / f"train-0000{index}-of-00002.parquet"
        pq.write_table(pa.Table.from_pylist(part, schema=schema(part)), file)
    build_corpus(tmp_path / "docs", tmp_path / "out", relations_in(tmp_path))
    assert [document.title for document in Corpus.open(tmp_path / "out")] == [each["title"] for each in raw]


def test_the_sum_depends_on_content_and_names(tmp_path: Path) -> None:
    write_shards(tmp_path / "docs")
    sums = {sha256_of_documents(tmp_path / "docs")}
    (tmp_path / "docs" / "docs-1.jsonl").rename(tmp_path / "docs" / "docs-2.jsonl")
    sums.add(sha256_of_documents(tmp_path / "docs"))
    with (tmp_path / "docs" / "docs-2.jsonl").open("a") as file:
        file.write("\n")
    sums.add(sha256_of_documents(tmp_path / "docs"))
    assert len(sums) == 3


def test_splits_are_not_mixed(tmp_path: Path) -> None:
    for name in ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"test-.*and train-.* are no shards of one set"):
        shards(tmp_path)


def test_a_breach_in_a_later_shard_is_found(tmp_path: Path) -> None:
    titles = write_shards(tmp_path / "docs")
    repeated = json.loads((tmp_path / "docs" / "docs-0.jsonl").read_text().splitlines()[0])
    (tmp_path / "docs" / "docs-2.jsonl").write_text(json.dumps(repeated))
    name = re.escape(repr(titles[0]))
    problem = rf"document 0 of docs-2\.jsonl \({name}\): document 0 of docs-0\.jsonl has the same title"
    with pytest.raises(FormatError, match=problem):
        build_corpus(tmp_path / "docs", tmp_path / "out", relations_in(tmp_path))
    assert not (tmp_path / "out").exists()


def test_a_breach_is_counted_from_the_start_of_its_shard(tmp_path: Path) -> None:
    write_shards(tmp_path / "docs")
    shard = tmp_path / "docs" / "docs-1.jsonl"
    first, second = map(json.loads, shard.read_text().splitlines())
    second["sents"] = None
    shard.write_text(json.dumps(first) + "\n" + json.dumps(second))
    name = re.escape(repr(second["title"]))
    with pytest.raises(FormatError, match=rf"document 1 of docs-1\.jsonl \({name}\): sents is null"):
        build_corpus(tmp_path / "docs", tmp_path / "out", relations_in(tmp_path))
