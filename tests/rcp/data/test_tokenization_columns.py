"""Vectorized tokenization, compared with the published preprocessing: loops over words, mentions and pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, RobertaTokenizer

from lmrc.corpus.corpus import Corpus
from lmrc.corpus.docred import read_documents
from lmrc.corpus.relations import read_relations
from lmrc.corpus.types import Document, Label, Mention
from lmrc.rcp.data.tokenization import ENCODED_SCHEMA, DocumentTokenizer
from tests.rcp import tiny
from tests.rcp.conftest import MakeCorpus, columns_of


def reference_row(document: Document, tokenizer: PreTrainedTokenizerBase, longest: int) -> dict[str, Any]:
    """Return a row of `ENCODED_SCHEMA`, computed without the code under test."""
    starts = [(m.sentence, m.start) for entity in document.entities for m in entity]
    ends = [(m.sentence, m.end - 1) for entity in document.entities for m in entity]
    pieces: list[str] = []
    at: dict[tuple[int, int], int] = {}
    for i, sentence in enumerate(document.sentences):
        for j, word in enumerate(sentence):
            at[i, j] = len(pieces) + 1
            pieces += ["*"] * ((i, j) in starts) + tokenizer.tokenize(word) + ["*"] * ((i, j) in ends)
    ids = tokenizer.convert_tokens_to_ids(pieces[: longest - 2])
    positions = [[at[m.sentence, m.start] for m in entity] for entity in document.entities]
    kept = [[position for position in entity if position <= longest - 2] for entity in positions]
    count = len(document.entities)
    pairs = [(h, t) for h in range(count) for t in range(count) if h != t]
    related = [(label.head, label.tail) for label in document.labels or ()]
    return {
        "input_ids": [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id],
        "markers": [position for entity in kept for position in entity],
        "mentions": [len(entity) for entity in kept],
        "cut": sum(map(len, positions)) - sum(map(len, kept)),
        "positive": [index for index, pair in enumerate(pairs) if pair in related],
        "types": [entity[0].type for entity in document.entities],
        "sentences": [m.sentence for entity in document.entities for m in entity],
        "all_mentions": [len(entity) for entity in document.entities],
    }


@cache
def tiny_tokenizer(kind: tiny.Kind) -> PreTrainedTokenizerBase:
    return tiny.tokenizer(kind)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Draw small documents with empty sentences, words without word pieces, and mentions that share words."""
    words = st.text("ab*é ", max_size=3)
    sentences = draw(st.lists(st.lists(words, max_size=5).map(tuple), max_size=4))
    full = [index for index, sentence in enumerate(sentences) if sentence]
    if not full:
        sentences.append(("a",))
        full = [len(sentences) - 1]

    def mention() -> Mention:
        sentence = draw(st.sampled_from(full))
        start = draw(st.integers(0, len(sentences[sentence]) - 1))
        end = draw(st.integers(start + 1, len(sentences[sentence])))
        return Mention("n", sentence, start, end, draw(st.sampled_from(["PER", "ORG", ""])))

    counts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    entities = tuple(tuple(mention() for _ in range(count)) for count in counts)
    pairs = [(h, t, r) for h in range(len(counts)) for t in range(len(counts)) if h != t for r in ("P17", "P131")]
    labels = draw(st.none() | (st.lists(st.sampled_from(pairs), unique=True) if pairs else st.just([])))
    return Document(
        "t", tuple(sentences), entities, None if labels is None else tuple(Label(*label) for label in labels)
    )


def check(actual: pa.RecordBatch, expected: Sequence[dict[str, Any]]) -> None:
    assert actual.schema == ENCODED_SCHEMA
    assert actual.to_pylist() == list(expected)


@given(
    chosen=st.lists(documents(), min_size=1, max_size=4),
    longest=st.integers(3, 40),
    kind=st.sampled_from(["bert", "roberta"]),
    data=st.data(),
)
def test_columns_equal_the_published_preprocessing(
    chosen: list[Document], longest: int, kind: tiny.Kind, data: st.DataObject
) -> None:
    tokenizer = DocumentTokenizer(tiny_tokenizer(kind), longest)
    expected = [reference_row(document, tiny_tokenizer(kind), longest) for document in chosen]
    rows = columns_of(chosen)
    check(tokenizer.encode_columns(rows), expected)
    # A slice of a record batch.
    start = data.draw(st.integers(0, len(chosen) - 1))
    check(tokenizer.encode_columns(rows.slice(start, 2)), expected[start : start + 2])
    for document, row in zip(chosen, expected, strict=True):
        encoded = tokenizer.encode(document)
        assert encoded.input_ids.tolist() == row["input_ids"]
        assert [position for entity in encoded.marker_positions for position in entity] == row["markers"]
        assert [len(entity) for entity in encoded.marker_positions] == row["mentions"]
        assert encoded.cut_mentions == row["cut"]
        assert list(encoded.entity_types) == row["types"]
        assert encoded.mention_sentences.tolist() == row["sentences"]
        assert encoded.mention_counts.tolist() == row["all_mentions"]


def test_real_documents(shared_data: Path, make_corpus: MakeCorpus) -> None:
    folder = shared_data / "tokenizers" / "roberta"
    roberta = RobertaTokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    relations = read_relations(shared_data / "rel_info.json")
    real = list(islice(read_documents(shared_data / "redocred_dev.json", relations), 40))
    corpus = make_corpus("real", [*real[:7], dataclasses.replace(real[7], labels=None), *real[8:]], relations)
    # 150 word pieces truncate most documents.
    for longest in (1024, 150):
        columns = DocumentTokenizer(roberta, longest).encode_columns(all_columns(corpus))
        check(columns, [reference_row(document, roberta, longest) for document in corpus])
        cut = sum(columns.column("cut").to_pylist())
        assert cut > 0 if longest == 150 else cut == 0
    assert sum(map(len, columns.column("positive").to_pylist())) > 300


def all_columns(corpus: Corpus) -> pa.RecordBatch:
    (documents,) = corpus.slices(len(corpus))
    return corpus.columns(documents)


def test_no_document_and_no_entity() -> None:
    tokenizer = DocumentTokenizer(tiny_tokenizer("bert"), 16)
    assert tokenizer.encode_columns(columns_of([])).num_rows == 0
    bare = Document("t", (("a", "b"),), (), ())
    empty = Document("t", (), (), None)
    (row, nothing) = tokenizer.encode_columns(columns_of([bare, empty])).to_pylist()
    assert tiny_tokenizer("bert").convert_ids_to_tokens(row["input_ids"]) == ["[CLS]", "a", "b", "[SEP]"]
    assert tiny_tokenizer("bert").convert_ids_to_tokens(nothing["input_ids"]) == ["[CLS]", "[SEP]"]


@pytest.mark.parametrize("most", [0, 1, 2, 100])
def test_bounded_cache_of_words(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmrc.rcp.data.tokenization.MAX_CACHED_WORDS", most)
    tokenizer = DocumentTokenizer(tiny_tokenizer("bert"), 64)
    sentences = [tiny.document(12, [1], seed=seed).sentences[0] for seed in range(6)]
    for sentence in sentences:
        expected = [
            tiny_tokenizer("bert").convert_tokens_to_ids(tiny_tokenizer("bert").tokenize(word)) for word in sentence
        ]
        assert tokenizer.tokenize_words(list(sentence)) == expected
        assert len(tokenizer._cache) <= most + 10


def test_only_new_words_are_tokenized(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = DocumentTokenizer(tiny_tokenizer("bert"), 64)
    tokenized: list[str] = []
    tokenize = tokenizer._tokenize

    def spy(words: list[str]) -> list[list[int]]:
        tokenized.extend(words)
        return tokenize(words)

    monkeypatch.setattr(tokenizer, "_tokenize", spy)
    tokenizer.encode_columns(columns_of([Document("t", (("a", "b", "a"),), (), ()), Document("t", (("b",),), (), ())]))
    tokenizer.encode_columns(columns_of([Document("t", (("c", "b", "a"),), (), ())]))
    assert sorted(tokenized[:2]) == ["a", "b"]
    assert tokenized[2:] == ["c"]


def metaspace(scheme: str) -> PreTrainedTokenizerBase:
    """Return a SentencePiece tokenizer, where the space before a word is part of its first word piece."""
    pieces = [("<unk>", 0.0), *((letter, -2.0) for letter in "▁*abcde"), ("▁a", -1.0), ("bc", -1.5)]
    fast = Tokenizer(models.Unigram(pieces, unk_id=0))
    fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    return PreTrainedTokenizerFast(tokenizer_object=fast, unk_token="<unk>", cls_token="▁", sep_token="▁")


@pytest.mark.parametrize(
    "tokenizer", [tiny.tokenizer("bert"), tiny.tokenizer("roberta"), *map(metaspace, ["first", "always"])]
)
def test_words_are_tokenized_by_themselves(tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        "abc",
        "",
        "a b",
        " a",
        " ",
        "[SEP]",
        "</s>",
        "<unk>",
        "*",
        "* a",
        "\u200b",
        "é",
        "日本",
        "a\nb",
        "ABC",
        "abcde",
    ]
    monkeypatch.setattr("lmrc.rcp.data.tokenization.WORDS_PER_ENCODING", 5)
    assert DocumentTokenizer(tokenizer, 64).tokenize_words(words) == [
        tokenizer.convert_tokens_to_ids(tokenizer.tokenize(word)) for word in words
    ]


class _Python:
    """Tokenizer without a fast backend, as for some Japanese or Vietnamese encoders."""

    def __init__(self, fast: PreTrainedTokenizerBase) -> None:
        self._fast = fast

    def __getattr__(self, name: str) -> Any:
        if name == "backend_tokenizer":
            raise AttributeError(name)
        return getattr(self._fast, name)

    def __call__(self, words: list[str], **options: Any) -> Any:
        return self._fast(words, **options)


def test_tokenizer_without_a_fast_backend() -> None:
    document = tiny.document(30, [1, 2, 1])
    slow = DocumentTokenizer(_Python(tiny_tokenizer("bert")), 64)
    fast = DocumentTokenizer(tiny_tokenizer("bert"), 64)
    assert slow.encode_columns(columns_of([document])) == fast.encode_columns(columns_of([document]))


def test_tokenizer_state_is_ignored() -> None:
    tokenizer = tiny.tokenizer("bert")
    tokenizer("abcdef", truncation=True, max_length=3, padding="max_length")
    document = Document("t", (("abcdef", "a"),), (), ())
    (row,) = DocumentTokenizer(tokenizer, 64).encode_columns(columns_of([document])).to_pylist()
    assert tokenizer.convert_ids_to_tokens(row["input_ids"][1:-1]) == ["a", "##b", "##c", "##d", "##e", "##f", "a"]
