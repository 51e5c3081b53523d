from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lmrc.common.errors import CorpusError, UserError
from lmrc.config.schema import PromptOptions
from lmrc.corpus.docred import candidate_pairs, relations_by_pair
from lmrc.rc.data import dataset as module
from lmrc.rc.data.dataset import Counts, load_or_build_dataset
from lmrc.rc.prompts.query_builder import Query, QueryBuilder, encode
from tests.conftest import ROOT
from tests.rc.tiny import DOCUMENTS, KINDS, RELATIONS, corpus, document
from tests.rc.tiny import tokenizer as byte_tokenizer


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one, so that no test reads what an earlier run has left."""
    monkeypatch.setenv("LMRC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(base)
    return loaded


@pytest.mark.parametrize("kind", KINDS)
def test_queries_are_those_of_single_documents(tmp_path: Path, tokenizer: PreTrainedTokenizerBase, kind: str) -> None:
    options = PromptOptions(kind=kind, pairs_per_query=2)
    found = load_or_build_dataset(corpus(tmp_path / "corpus", DOCUMENTS), tokenizer, options)
    builder = QueryBuilder(tokenizer, RELATIONS, options)
    expected = [
        encode(query, tokenizer)
        for index, one in enumerate(DOCUMENTS)
        for query in builder.build(
            index,
            one,
            relations_by_pair(one) if kind == "rc" else candidate_pairs(len(one.entities)),
            relations_by_pair(one),
        )
    ]
    assert len(found) == len(expected) == (2 if kind == "rc" else 5)
    digest = hashlib.sha256()
    for index, right in enumerate(expected):
        example = found[index]
        assert torch.equal(example.input_ids, right.input_ids)
        assert example.input_ids.dtype == right.input_ids.dtype
        assert example.prompt_tokens == right.prompt_tokens
        assert (found.size(index), found.weight(index)) == (len(right.input_ids), right.answer_tokens)
        digest.update(len(right.input_ids).to_bytes(8, "little") + right.prompt_tokens.to_bytes(8, "little"))
        digest.update(right.input_ids.numpy().tobytes())
    # What checkpoints of before the cache hold.
    assert found.sha256 == digest.hexdigest()
    assert found.tokens == sum(len(right.input_ids) for right in expected)
    assert found.counts == Counts(documents=3, without_pairs=1 if kind == "rc" else 0)


@pytest.mark.parametrize(
    ("kind", "sha256"),
    [
        ("rc", "6aed6fe83bf11f866487a42ba123252d4c36552834edc7381363cd0a49917bad"),
        ("direct", "d39432b818eed725892734b6fd2f4d0eb9541644bd66c48aed7130fbf727e3e0"),
    ],
)
def test_version(tmp_path: Path, kind: str, sha256: str) -> None:
    """What is in users' caches is not known to be of older code: change `VERSION` where this changes."""
    found = load_or_build_dataset(corpus(tmp_path / "corpus", DOCUMENTS), byte_tokenizer(), PromptOptions(kind=kind))
    assert (module.VERSION, found.sha256) == (1, sha256)


def test_the_last_is_found_from_the_end_and_none_beyond(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    found = load_or_build_dataset(corpus(tmp_path / "corpus", DOCUMENTS), tokenizer, PromptOptions())
    assert torch.equal(found[-1].input_ids, found[1].input_ids)
    with pytest.raises(IndexError):
        found[2]


def test_they_are_made_once(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Query] = []

    def spy(query: Query, *rest: object) -> object:
        made.append(query)
        return encode(query, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "encode", spy)
    docs = corpus(tmp_path / "corpus", DOCUMENTS)
    first, again = (load_or_build_dataset(docs, tokenizer, PromptOptions()) for _ in range(2))
    assert len(made) == 2
    assert [first[index].input_ids.tolist() for index in range(2)] == [
        again[index].input_ids.tolist() for index in range(2)
    ]


def test_whatever_decides_them_makes_them_anew(tmp_path: Path, tokenizer: PreTrainedTokenizerBase, cache: Path) -> None:
    docs = corpus(tmp_path / "one", DOCUMENTS)
    direct = PromptOptions(kind="direct")
    other: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    other.add_tokens(["Ada"])
    load_or_build_dataset(docs, tokenizer, PromptOptions())
    load_or_build_dataset(docs, other, PromptOptions())
    load_or_build_dataset(docs, tokenizer, PromptOptions(template="llama2"))
    load_or_build_dataset(docs, tokenizer, direct)
    load_or_build_dataset(docs, tokenizer, direct, none_ratio=1.0, seed=1)
    load_or_build_dataset(docs, tokenizer, direct, none_ratio=1.0, seed=2)
    load_or_build_dataset(corpus(tmp_path / "two", DOCUMENTS[:2]), tokenizer, PromptOptions())
    assert sum(folder.is_dir() for folder in cache.iterdir()) == 7
    # Without thinning nothing is drawn.
    load_or_build_dataset(docs, tokenizer, direct, seed=3)
    assert sum(folder.is_dir() for folder in cache.iterdir()) == 7


def test_what_is_shortened_and_thinned_out_is_counted(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    long = document(["X", "Y", "Z"], [(0, 1, "P17")], "long", text="word " * 30)
    docs = corpus(tmp_path / "corpus", [long])
    whole = load_or_build_dataset(docs, tokenizer, PromptOptions(kind="direct", pairs_per_query=1))
    thinned = load_or_build_dataset(docs, tokenizer, PromptOptions(kind="direct", pairs_per_query=1), none_ratio=2.0)
    assert (len(whole), len(thinned)) == (6, 3)
    assert thinned.counts.thinned_out == 3 and whole.counts.thinned_out == 0
    # Of the two sentences "The end ." names neither; the other one is that of all mentions.
    length = max(whole.size(index) for index in range(6))
    short = PromptOptions(kind="direct", pairs_per_query=1, max_length=length - 2, truncate="sentences")
    counts = load_or_build_dataset(docs, tokenizer, short).counts
    assert counts.shortened == counts.sentences >= 1


def test_a_document_that_is_refused_leaves_nothing_behind(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, cache: Path
) -> None:
    with pytest.raises(UserError, match=r"'one' needs \d+ tokens"):
        load_or_build_dataset(corpus(tmp_path / "corpus", DOCUMENTS), tokenizer, PromptOptions(max_length=64))
    assert not any(folder.is_dir() for folder in cache.iterdir())


@pytest.mark.parametrize("name", ["ids.npy", "prompts.npy", "counts.json"])
def test_what_is_torn_is_made_again(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, cache: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    docs = corpus(tmp_path / "corpus", DOCUMENTS)
    right = load_or_build_dataset(docs, tokenizer, PromptOptions()).sha256
    [file] = cache.glob(f"*/{name}")
    file.write_bytes(file.read_bytes()[:-3])
    assert load_or_build_dataset(docs, tokenizer, PromptOptions()).sha256 == right
    assert "is damaged" in capsys.readouterr().err


def test_what_is_wrong_in_the_right_size_is_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, cache: Path
) -> None:
    docs = corpus(tmp_path / "corpus", DOCUMENTS)
    load_or_build_dataset(docs, tokenizer, PromptOptions())
    [file] = cache.glob("*/counts.json")
    file.write_bytes(b"x" * file.stat().st_size)
    with pytest.raises(CorpusError, match="This is a cache: remove"):
        load_or_build_dataset(docs, tokenizer, PromptOptions())


def test_ranks_that_ask_at_once_share_one(tmp_path: Path, base: Path, cache: Path) -> None:
    docs = corpus(tmp_path / "corpus", DOCUMENTS)
    code = f"""
from transformers import AutoTokenizer
from lmrc.config.schema import PromptOptions
from lmrc.corpus.corpus import Corpus
from lmrc.rc.data.dataset import load_or_build_dataset
print(load_or_build_dataset(Corpus.open({str(docs.folder)!r}), AutoTokenizer.from_pretrained({str(base)!r}), PromptOptions()).sha256)
"""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "LMRC_CACHE": str(cache)},
        )
        for _ in range(3)
    ]
    assert len({rank.communicate()[0] for rank in ranks}) == 1
    assert [rank.returncode for rank in ranks] == [0, 0, 0]
    assert sum(folder.is_dir() for folder in cache.iterdir()) == 1
