from __future__ import annotations

import dataclasses
import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase

from lmrc.common.cache import fingerprint
from lmrc.common.errors import CorpusError, UserError
from lmrc.corpus.docred import candidate_pairs, relations_by_pair
from lmrc.corpus.shards import write_shard
from lmrc.rcp.data import dataset
from lmrc.rcp.data.dataset import EncodedCorpus, load_or_build_dataset
from lmrc.rcp.data.tokenization import DocumentTokenizer
from tests.conftest import ROOT
from tests.rcp import tiny
from tests.rcp.conftest import MakeCorpus

DOCUMENTS = [
    tiny.document(20, [1, 2, 1], seed=1, labels=((2, 0), (0, 1), (1, 2))),
    tiny.document(60, [3, 1, 1, 1], seed=2, labels=((3, 0), (0, 3))),
    tiny.document(10, [3], seed=3),
    tiny.document(10, [1, 1], seed=4, labels=None),
    tiny.document(50, [1, 1, 2, 4, 1], seed=5, labels=((4, 0), (1, 3))),
]
BERT = tiny.tokenizer("bert")


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record every word that this process tokenizes."""
    seen: list[str] = []
    tokenize = DocumentTokenizer._tokenize

    def spy(self: DocumentTokenizer, words: list[str]) -> list[list[int]]:
        seen.extend(words)
        return tokenize(self, words)

    monkeypatch.setattr(DocumentTokenizer, "_tokenize", spy)
    return seen


def folders(cache: Path) -> list[Path]:
    return sorted(folder for folder in cache.iterdir() if folder.is_dir())


@pytest.mark.parametrize("docs_per_shard", [1, 2, 256])
@pytest.mark.parametrize("longest", [20, 200])
def test_examples_equal_single_documents(
    make_corpus: MakeCorpus, docs_per_shard: int, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "DOCS_PER_SHARD", 3)
    tokenizer = DocumentTokenizer(BERT, longest)
    encoded_corpus = load_or_build_dataset(make_corpus("five", DOCUMENTS, docs_per_shard=docs_per_shard), tokenizer)
    expected = [tokenizer.encode(document) for document in DOCUMENTS]
    assert len(encoded_corpus) == 5
    for index, (document, encoded) in enumerate(zip(DOCUMENTS, expected, strict=True)):
        example = encoded_corpus[index]
        assert example.document.input_ids.dtype == np.int32
        assert example.document.input_ids.tolist() == encoded.input_ids.tolist()
        assert (example.document.marker_positions, example.document.cut_mentions) == (
            encoded.marker_positions,
            encoded.cut_mentions,
        )
        assert example.document.entity_types == encoded.entity_types
        assert example.document.mention_sentences.tolist() == encoded.mention_sentences.tolist()
        assert example.document.mention_counts.tolist() == encoded.mention_counts.tolist()
        gold = relations_by_pair(document)
        assert example.targets().tolist() == [pair in gold for pair in candidate_pairs(len(document.entities))]
    assert encoded_corpus[-1].document.marker_positions == expected[-1].marker_positions
    with pytest.raises(IndexError):
        encoded_corpus[5]
    assert encoded_corpus.lengths.tolist() == [len(encoded.input_ids) for encoded in expected]
    assert encoded_corpus.pair_counts.tolist() == [6, 12, 0, 2, 20]
    assert encoded_corpus.positive_counts.tolist() == [3, 2, 0, 0, 2]
    assert encoded_corpus.cut_mentions.tolist() == [encoded.cut_mentions for encoded in expected]
    assert encoded_corpus.lost_entities.tolist() == [encoded.marker_positions.count(()) for encoded in expected]
    assert (encoded_corpus.lost_entities.sum() > 0) == (longest == 20)


def test_second_load_tokenizes_nothing(make_corpus: MakeCorpus, words: list[str], cache: Path) -> None:
    corpus = make_corpus("five", DOCUMENTS)
    first = load_or_build_dataset(corpus, DocumentTokenizer(BERT, 64))
    assert set(words) == {word for document in DOCUMENTS for sentence in document.sentences for word in sentence}
    words.clear()
    # A tokenizer of another process, with other state.
    other = tiny.tokenizer("bert")
    other("abc", truncation=True, max_length=3, padding="max_length")
    again = load_or_build_dataset(corpus, DocumentTokenizer(other, 64))
    assert words == []
    assert again.folder == first.folder == folders(cache)[0]
    assert again.folder.name.startswith("encoded-")
    assert again[1].document.marker_positions == first[1].document.marker_positions


def test_cache_key_covers_tokenizer_length_and_corpus(make_corpus: MakeCorpus, cache: Path) -> None:
    corpus = make_corpus("five", DOCUMENTS)
    changed = dataclasses.replace(DOCUMENTS[0], labels=())
    pieces = {piece: number for number, piece in enumerate(BERT.get_vocab())}
    corpora = [
        load_or_build_dataset(corpus, DocumentTokenizer(BERT, 64)),
        load_or_build_dataset(corpus, DocumentTokenizer(BERT, 65)),
        load_or_build_dataset(corpus, DocumentTokenizer(tiny.tokenizer("roberta"), 64)),
        load_or_build_dataset(corpus, DocumentTokenizer(BertTokenizer(vocab={**pieces, "more": len(pieces)}), 64)),
        load_or_build_dataset(make_corpus("changed", [changed, *DOCUMENTS[1:]]), DocumentTokenizer(BERT, 64)),
    ]
    assert len({encoded.folder for encoded in corpora}) == 5 == len(folders(cache))


def test_fingerprint_depends_on_the_tokenizers_content(tmp_path: Path) -> None:
    def loaded(folder: Path, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
        tokenizer.save_pretrained(folder)
        again: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        return again

    here, there = (loaded(tmp_path / name, tiny.tokenizer("roberta")) for name in ("here", "there"))
    assert fingerprint(here) == fingerprint(there) != fingerprint(loaded(tmp_path / "bert", BERT))


@pytest.mark.parametrize("damage", ["half a shard", "a shard missing", "no manifest"])
def test_damaged_cache_is_rebuilt(
    make_corpus: MakeCorpus, words: list[str], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    corpus, tokenizer = make_corpus("five", DOCUMENTS), DocumentTokenizer(BERT, 64)
    folder = load_or_build_dataset(corpus, tokenizer).folder
    shard = folder / "shard-00000.arrow"
    if damage == "half a shard":
        shard.write_bytes(shard.read_bytes()[:500])
    else:
        (shard if damage == "a shard missing" else folder / "manifest.json").unlink()
    words.clear()
    again = load_or_build_dataset(corpus, DocumentTokenizer(BERT, 64))
    assert words != []
    assert again[0].document.input_ids.tolist() == tokenizer.encode(DOCUMENTS[0]).input_ids.tolist()
    assert "damaged" in caplog.text


def test_failed_build_leaves_nothing_in_the_cache(
    make_corpus: MakeCorpus, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "DOCS_PER_SHARD", 2)
    corpus = make_corpus("five", DOCUMENTS)
    written = 0

    def full(*arguments: object, **more: object) -> object:
        nonlocal written
        written += 1
        if written == 3:
            raise UserError("no space left")
        return write_shard(*arguments, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(dataset, "write_shard", full)
        with pytest.raises(UserError, match="no space left"):
            load_or_build_dataset(corpus, DocumentTokenizer(BERT, 64))
    assert folders(cache) == []
    assert len(load_or_build_dataset(corpus, DocumentTokenizer(BERT, 64))) == 5


def test_changed_bytes_are_detected(make_corpus: MakeCorpus) -> None:
    corpus = make_corpus("five", DOCUMENTS)
    folder = load_or_build_dataset(corpus, DocumentTokenizer(BERT, 64)).folder
    shard = folder / "shard-00000.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CorpusError, match=rf"shard-00000.arrow is damaged: its sha256 .* remove {folder}"):
        load_or_build_dataset(corpus, DocumentTokenizer(BERT, 64))


BUILD = """
import sys
from lmrc.corpus.corpus import Corpus
from lmrc.rcp.data import dataset
from lmrc.rcp.data.dataset import load_or_build_dataset
from lmrc.rcp.data.tokenization import DocumentTokenizer
from tests.rcp import tiny

tokenized = []
write = dataset.write_shard
def spy(folder, *rest, **more):
    tokenized.append(folder)
    return write(folder, *rest, **more)
dataset.write_shard = spy
corpus = Corpus.open(sys.argv[1])
tokenizer = DocumentTokenizer(tiny.tokenizer("bert"), 64)
print("ready", flush=True)
sys.stdin.readline()
encoded_corpus = load_or_build_dataset(corpus, tokenizer)
print(encoded_corpus.folder, len(encoded_corpus), bool(tokenized))
"""


@pytest.mark.slow
def test_concurrent_processes_build_once(make_corpus: MakeCorpus, cache: Path) -> None:
    corpus = make_corpus("many", [tiny.document(200, [1, 1, 1], seed=seed, title=str(seed)) for seed in range(600)])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", BUILD, str(corpus.folder)],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for rank in ranks:
        assert rank.stdout is not None
        assert rank.stdout.readline() == "ready\n"
    outputs = [rank.communicate("go\n", timeout=120)[0].split() for rank in ranks]
    (folder,) = folders(cache)
    assert [words[:2] for words in outputs] == [[str(folder), "600"]] * 2
    assert sorted(words[2] for words in outputs) == ["False", "True"]


def test_memory_mapped(make_corpus: MakeCorpus) -> None:
    """Arrays are views of the file, which is unmapped when they are deleted."""
    encoded_corpus = load_or_build_dataset(make_corpus("five", DOCUMENTS), DocumentTokenizer(BERT, 64))
    example = encoded_corpus[0]
    assert not example.document.input_ids.flags.owndata
    assert not example.document.input_ids.flags.writeable

    folder, maps = encoded_corpus.folder, Path("/proc/self/maps")
    assert str(folder) in maps.read_text()
    del example, encoded_corpus
    gc.collect()
    assert str(folder) not in maps.read_text()
    assert len(EncodedCorpus(folder)) == 5
