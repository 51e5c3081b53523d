from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lmrc.common.errors import CorpusError, UserError
from lmrc.config.schema import PromptOptions
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.docred import candidate_pairs, relations_by_pair
from lmrc.corpus.types import Triple
from lmrc.rc.data import dataset as module
from lmrc.rc.data.dataset import QueryCounts, load_or_build_dataset
from lmrc.rc.prompts.query_builder import Query, QueryBuilder, encode
from lmrc.rc.prompts.questions import QuestionBuilder, encode_questions
from lmrc.training.distributed import World
from tests.rc.tiny import DOCUMENTS, KINDS, RELATIONS, corpus, document
from tests.rc.tiny import tokenizer as byte_tokenizer
from tests.training.processes import run_in_processes


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty cache, so that no test reads files of an earlier run."""
    monkeypatch.setenv("LMRC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(base)
    return loaded


@pytest.mark.parametrize("kind", KINDS)
def test_queries_equal_those_of_the_query_builder(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, kind: str
) -> None:
    options = PromptOptions(kind=kind, pairs_per_query=2)
    dataset = load_or_build_dataset(corpus(tmp_path / "corpus", DOCUMENTS), tokenizer, options)
    builder = QueryBuilder(tokenizer, RELATIONS, options)
    expected = [
        encode(query, tokenizer)
        for index, doc in enumerate(DOCUMENTS)
        for query in builder.build(
            index,
            doc,
            relations_by_pair(doc) if kind == "rc" else candidate_pairs(len(doc.entities)),
            relations_by_pair(doc),
        )
    ]
    assert len(dataset) == len(expected) == (2 if kind == "rc" else 5)
    digest = hashlib.sha256()
    for index, reference in enumerate(expected):
        example = dataset[index]
        assert torch.equal(example.input_ids, reference.input_ids)
        assert example.input_ids.dtype == reference.input_ids.dtype
        assert example.prompt_tokens == reference.prompt_tokens
        assert (dataset.size(index), dataset.weight(index)) == (
            len(reference.input_ids),
            reference.answer_tokens,
        )
        digest.update(len(reference.input_ids).to_bytes(8, "little") + reference.prompt_tokens.to_bytes(8, "little"))
        digest.update(reference.input_ids.numpy().tobytes())
    # Checkpoints that were saved before the cache existed hold this hash.
    assert dataset.sha256 == digest.hexdigest()
    assert dataset.tokens == sum(len(reference.input_ids) for reference in expected)
    assert dataset.counts == QueryCounts(documents=3, without_pairs=1 if kind == "rc" else 0)


@pytest.mark.parametrize(
    ("kind", "sha256"),
    [
        ("rc", "6aed6fe83bf11f866487a42ba123252d4c36552834edc7381363cd0a49917bad"),
        ("direct", "d39432b818eed725892734b6fd2f4d0eb9541644bd66c48aed7130fbf727e3e0"),
    ],
)
def test_version(tmp_path: Path, kind: str, sha256: str) -> None:
    """If a hash changes, increase `VERSION`: otherwise users would read outdated ids from their caches."""
    dataset = load_or_build_dataset(corpus(tmp_path / "corpus", DOCUMENTS), byte_tokenizer(), PromptOptions(kind=kind))
    assert (module.VERSION, dataset.sha256) == (1, sha256)


def test_negative_index_and_index_out_of_range(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    dataset = load_or_build_dataset(corpus(tmp_path / "corpus", DOCUMENTS), tokenizer, PromptOptions())
    assert torch.equal(dataset[-1].input_ids, dataset[1].input_ids)
    with pytest.raises(IndexError):
        dataset[2]


def test_queries_are_built_once(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[Query] = []

    def spy(query: Query, *rest: object) -> object:
        encoded.append(query)
        return encode(query, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "encode", spy)
    docs = corpus(tmp_path / "corpus", DOCUMENTS)
    first, again = (load_or_build_dataset(docs, tokenizer, PromptOptions()) for _ in range(2))
    assert len(encoded) == 2
    assert [first[index].input_ids.tolist() for index in range(2)] == [
        again[index].input_ids.tolist() for index in range(2)
    ]


def test_other_inputs_give_another_cache_folder(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, cache: Path
) -> None:
    docs = corpus(tmp_path / "one", DOCUMENTS)
    direct = PromptOptions(kind="direct")
    other: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    other.add_tokens(["Ada"])
    load_or_build_dataset(docs, tokenizer, PromptOptions())
    load_or_build_dataset(docs, other, PromptOptions())
    load_or_build_dataset(docs, tokenizer, PromptOptions(template="llama2"))
    load_or_build_dataset(docs, tokenizer, direct)
    load_or_build_dataset(docs, tokenizer, direct, negative_ratio=1.0, seed=1)
    load_or_build_dataset(docs, tokenizer, direct, negative_ratio=1.0, seed=2)
    load_or_build_dataset(corpus(tmp_path / "two", DOCUMENTS[:2]), tokenizer, PromptOptions())
    assert sum(folder.is_dir() for folder in cache.iterdir()) == 7
    # The schema has an effect on inference only.
    load_or_build_dataset(docs, tokenizer, PromptOptions(schema=tmp_path / "schema.json"))
    # Without negative_ratio, the seed has no effect.
    load_or_build_dataset(docs, tokenizer, direct, seed=3)
    assert sum(folder.is_dir() for folder in cache.iterdir()) == 7


def test_counts_of_dropped_sentences_and_pairs(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    long = document(["X", "Y", "Z"], [(0, 1, "P17")], "long", text="word " * 30)
    docs = corpus(tmp_path / "corpus", [long])
    whole = load_or_build_dataset(docs, tokenizer, PromptOptions(kind="direct", pairs_per_query=1))
    thinned = load_or_build_dataset(
        docs, tokenizer, PromptOptions(kind="direct", pairs_per_query=1), negative_ratio=2.0
    )
    assert (len(whole), len(thinned)) == (6, 3)
    assert thinned.counts.thinned_out == 3 and whole.counts.thinned_out == 0
    # Only the sentence "The end ." has no mention.
    length = max(whole.size(index) for index in range(6))
    short = PromptOptions(kind="direct", pairs_per_query=1, max_length=length - 2, truncate="sentences")
    counts = load_or_build_dataset(docs, tokenizer, short).counts
    assert counts.shortened == counts.sentences >= 1


def test_nothing_is_cached_if_a_document_is_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, cache: Path
) -> None:
    with pytest.raises(UserError, match=r"'one' needs \d+ tokens"):
        load_or_build_dataset(corpus(tmp_path / "corpus", DOCUMENTS), tokenizer, PromptOptions(max_length=64))
    assert not any(folder.is_dir() for folder in cache.iterdir())


@pytest.mark.parametrize("name", ["ids.npy", "prompts.npy", "counts.json"])
def test_truncated_files_are_built_again(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, cache: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    docs = corpus(tmp_path / "corpus", DOCUMENTS)
    sha256 = load_or_build_dataset(docs, tokenizer, PromptOptions()).sha256
    [file] = cache.glob(f"*/{name}")
    file.write_bytes(file.read_bytes()[:-3])
    assert load_or_build_dataset(docs, tokenizer, PromptOptions()).sha256 == sha256
    assert "is damaged" in caplog.text


def test_damaged_files_of_the_right_size_are_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, cache: Path
) -> None:
    docs = corpus(tmp_path / "corpus", DOCUMENTS)
    load_or_build_dataset(docs, tokenizer, PromptOptions())
    [file] = cache.glob("*/counts.json")
    file.write_bytes(b"x" * file.stat().st_size)
    with pytest.raises(CorpusError, match="This is a cache: remove"):
        load_or_build_dataset(docs, tokenizer, PromptOptions())


def build(world: World, base: Path, docs: Path, out: Path) -> None:
    dataset = load_or_build_dataset(Corpus.open(docs), AutoTokenizer.from_pretrained(base), PromptOptions())
    (out / str(world.rank)).write_text(dataset.sha256)


def test_concurrent_ranks_build_one_folder(tmp_path: Path, base: Path, cache: Path) -> None:
    docs = corpus(tmp_path / "corpus", DOCUMENTS)
    out = tmp_path / "out"
    out.mkdir()
    run_in_processes(3, build, base, docs.folder, out)
    assert len(list(out.iterdir())) == 3
    assert len({path.read_text() for path in out.iterdir()}) == 1
    assert sum(folder.is_dir() for folder in cache.iterdir()) == 1


def test_questions_equal_those_of_the_builder(tmp_path: Path, tokenizer: PreTrainedTokenizerBase, cache: Path) -> None:
    options = PromptOptions(kind="likelihood", pairs_per_query=2)
    docs = corpus(tmp_path / "corpus", DOCUMENTS)
    dataset = load_or_build_dataset(docs, tokenizer, options)
    # Which relations are asked about matters in inference only.
    again = load_or_build_dataset(docs, tokenizer, options.model_copy(update={"relations_per_pair": 1}))
    assert dataset.sha256 == again.sha256
    assert sum(folder.is_dir() for folder in cache.iterdir()) == 1
    triples = [{Triple(label.head, label.tail, label.relation) for label in doc.labels or ()} for doc in DOCUMENTS]
    assert dataset.counts.questions == sum(map(len, triples))
    builder = QuestionBuilder(tokenizer, RELATIONS, options)
    expected = []
    for index, doc in enumerate(DOCUMENTS):
        queries = list(builder.build(index, doc, relations_by_pair(doc).items()))
        assert {question.triple for query in queries for question in query.questions} == triples[index]
        expected += [encode_questions(query, tokenizer) for query in queries]
    assert len(dataset) == len(expected)
    for index, reference in enumerate(expected):
        example = dataset[index]
        assert torch.equal(example.input_ids, reference.input_ids)
        assert example.questions is not None and reference.questions is not None
        assert all(map(torch.equal, example.questions, reference.questions))
        assert example.prompt_tokens == reference.prompt_tokens
        assert dataset.size(index) == len(reference.input_ids)
        assert dataset.weight(index) == int(reference.questions.name_tokens.sum())
    assert dataset.tokens == sum(len(reference.input_ids) for reference in expected)
