from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrc.common.errors import CorpusError, UserError
from lmrc.common.files import sha256_of
from lmrc.corpus.corpus import Corpus, write_corpus
from lmrc.corpus.docred import read_documents
from lmrc.corpus.relations import DOCRED, RelationSet
from lmrc.corpus.types import Document, Label, Mention
from tests.corpus.strategies import corpora

A = (Mention("A", 0, 0, 1, "PER"),)
LABELLED = Document(
    "one", (("A", "b"),), (A, A, A), (Label(0, 1, "P17", (0,)), Label(0, 1, "P6"), Label(2, 0, "P6")), 4
)
UNLABELLED = Document("two", (("A",),), (A, A), None)
EMPTY = Document("three", (("A",), ()), (A,), ())


def write(out: Path, documents: list[Document], docs_per_shard: int = 2) -> Path:
    write_corpus(documents, out, DOCRED, "docs.json", "0" * 64, docs_per_shard)
    return out


@settings(max_examples=40, deadline=None)
@given(corpora(), st.integers(1, 4))
def test_documents_round_trip(tmp_path_factory: pytest.TempPathFactory, given: list[Document], size: int) -> None:
    corpus = Corpus.open(write(tmp_path_factory.mktemp("c") / "out", given, size))
    assert list(corpus) == given
    assert len(corpus) == len(given)
    assert corpus[-1] == given[-1]
    assert [corpus.labels(index) for index in range(len(given))] == [document.labels for document in given]
    # Values are plain Python types, not numpy or Arrow scalars.
    assert json.dumps([vars_of(document) for document in corpus]) == json.dumps([vars_of(d) for d in given])


def vars_of(document: Document) -> list[object]:
    return [
        document.title,
        document.sentences,
        [[(m.name, m.sentence, m.start, m.end, m.type) for m in entity] for entity in document.entities],
        None if document.labels is None else [(x.head, x.tail, x.relation, x.evidence) for x in document.labels],
        document.duplicate_labels,
    ]


def test_manifest_counts(tmp_path: Path) -> None:
    manifest = Corpus.open(write(tmp_path / "out", [LABELLED, UNLABELLED, EMPTY])).manifest
    assert manifest.documents == 3
    assert manifest.labelled_documents == 2
    assert manifest.candidate_pairs == 3 * 2 + 2 + 0
    assert manifest.relation_pairs == 2
    assert manifest.na_pairs == 4
    assert manifest.triples == 3
    assert manifest.duplicate_labels == 4
    assert (manifest.source, manifest.source_sha256) == ("docs.json", "0" * 64)
    assert [shard.rows for shard in manifest.shards] == [2, 1]


def test_duplicate_counts_round_trip(tmp_path: Path) -> None:
    corpus = Corpus.open(write(tmp_path / "out", [LABELLED, EMPTY]))
    assert [document.duplicate_labels for document in corpus] == [4, 0]


def test_relation_set_keeps_its_order(tmp_path: Path) -> None:
    relations = RelationSet(("Z", "A"), ("owns", "größer"))
    write_corpus([EMPTY], tmp_path / "out", relations, "docs.json", "0" * 64)
    assert Corpus.open(tmp_path / "out").relations == relations


def test_different_corpora_have_different_fingerprints(tmp_path: Path) -> None:
    corpora = [
        Corpus.open(write(tmp_path / str(index), documents))
        for index, documents in enumerate(([LABELLED], [LABELLED], [EMPTY], [LABELLED, EMPTY]))
    ]
    assert corpora[0].fingerprint == corpora[1].fingerprint
    assert len({corpus.fingerprint for corpus in corpora}) == 3


def test_empty_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"docs\.json: holds no documents"):
        write(tmp_path / "out", [])
    assert list(tmp_path.iterdir()) == []


def test_bad_document_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "docs.json"
    good = {"sents": [["A"]], "vertexSet": [[{"name": "A", "sent_id": 0, "pos": [0, 1], "type": "PER"}]]}
    source.write_text(json.dumps([{**good, "title": "a"}, {**good, "title": "b"}, {**good, "title": "a"}]))
    with pytest.raises(UserError, match="same title"):
        write_corpus(read_documents(source, DOCRED), tmp_path / "out", DOCRED, source.name, "0" * 64, 1)
    assert list(tmp_path.iterdir()) == [source]


def test_other_kinds_and_damaged_shards_are_refused(tmp_path: Path) -> None:
    out = write(tmp_path / "out", [LABELLED, UNLABELLED, EMPTY])
    shard = out / "shard-00001.arrow"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    corpus = Corpus.open(out)
    assert corpus[1] == UNLABELLED
    with pytest.raises(CorpusError, match="sha256"):
        corpus[2]
    with pytest.raises(CorpusError, match="sha256"):
        corpus.verify()
    text = (out / "manifest.json").read_text()
    (out / "manifest.json").write_text(text.replace('"corpus"', '"candidates"'))
    with pytest.raises(CorpusError, match="holds candidates, expected corpus"):
        Corpus.open(out)


def test_index_beyond_the_end(tmp_path: Path) -> None:
    corpus = Corpus.open(write(tmp_path / "out", [LABELLED, EMPTY]))
    with pytest.raises(IndexError):
        corpus[2]


def test_shard_is_a_plain_arrow_file(tmp_path: Path) -> None:
    out = write(tmp_path / "out", [LABELLED, UNLABELLED])
    table = pa.ipc.open_file(out / "shard-00000.arrow").read_all()
    assert table.column("title").to_pylist() == ["one", "two"]
    assert table.column("labels").to_pylist()[1] is None
    assert table.column("labels").to_pylist()[0][0] == {"head": 0, "tail": 1, "relation": "P17", "evidence": [0]}


def test_real_documents(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "redocred_dev.json"
    documents = list(read_documents(source, DOCRED))
    manifest = write_corpus(documents, tmp_path / "out", DOCRED, source.name, sha256_of(source))
    figures = (
        manifest.documents,
        manifest.candidate_pairs,
        manifest.na_pairs,
        manifest.relation_pairs,
        manifest.triples,
    )
    assert figures == (500, 193_232, 179_870, 13_362, 17_284)
    assert list(Corpus.open(tmp_path / "out")) == documents


MEMORY = """
import json, sys, threading
from pathlib import Path
from lmrc.corpus.corpus import Corpus, write_corpus
import pyarrow as pa, pyarrow.parquet as pq
from lmrc.corpus.docred import read_documents, to_json
from lmrc.corpus.relations import DOCRED
from lmrc.corpus.types import Document, Label, Mention

def resident():
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) / 1024

def document(number):
    sentences = tuple(tuple(f"w{number * s + t}" for t in range(25)) for s in range(8))
    entities = tuple((Mention(f"e{number}-{e}", e % 8, e, e + 2, "PER"),) for e in range(20))
    return Document(f"d{number}", sentences, entities, tuple(Label(h, h + 1, "P17", (0,)) for h in range(19)))

count, folder, form = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
path = folder / f"docs.{form}"
if form == "parquet":
    schema = pa.RecordBatch.from_pylist([to_json(document(0))]).schema
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, count, 500):
            rows = [to_json(document(number)) for number in range(first, first + 500)]
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
else:
    opening, between, end = ("[", ",\\n", "]") if form == "json" else ("", "\\n", "\\n")
    with path.open("w") as file:
        for number in range(count):
            file.write((opening if number == 0 else between) + json.dumps(to_json(document(number))))
        file.write(end)
Path("/proc/self/clear_refs").write_text("5")
before = resident()
write_corpus(read_documents(path, DOCRED), folder / "out", DOCRED, path.name, "0" * 64)
corpus = Corpus.open(folder / "out")
assert sum(len(document.labels) for document in corpus) == 19 * count
size = sum(shard.bytes for shard in corpus.manifest.shards) / 2**20
print(json.dumps({"growth": resident() - before, "size": size}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc to measure memory")
@pytest.mark.parametrize("form", ["json", "jsonl", "parquet"])
def test_memory_stays_flat(tmp_path: Path, form: str) -> None:
    growth = {}
    for count in (1_000, 6_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(count), str(folder), form], capture_output=True, text=True, check=True
        )
        growth[count] = json.loads(done.stdout)
    more_data = growth[6_000]["size"] - growth[1_000]["size"]
    more_memory = growth[6_000]["growth"] - growth[1_000]["growth"]
    # In MiB. Mapped shards count as memory; documents kept as objects would take several times their size.
    assert more_memory < 2 * more_data, growth
    assert growth[6_000]["growth"] < 300, growth


def test_path_without_a_corpus_says_how_to_build_one(tmp_path: Path) -> None:
    train = write(tmp_path / "docred" / "train", [LABELLED])
    (tmp_path / "docs.json").write_text("[]")
    for path, message in (
        (
            tmp_path / "mine",
            rf"mine: no such folder; type lmrc data build DOCUMENTS --out {tmp_path}",
        ),
        (tmp_path / "redocred" / "dev", "no such folder; type lmrc data download redocred to make it"),
        (
            tmp_path / "docs.json",
            rf"is a file, expected a corpus folder: type lmrc data build {tmp_path}/docs\.json --out data/NAME",
        ),
        (tmp_path / "docred", rf"docred: holds the corpora train: give one of them, such as {train}"),
    ):
        with pytest.raises(CorpusError, match=message):
            Corpus.open(path)
