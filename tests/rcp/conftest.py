from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pytest
from transformers import BertTokenizer

from lmrc.config.schema import RcpConfig
from lmrc.corpus.corpus import SCHEMA, Corpus, write_corpus
from lmrc.corpus.relations import RelationSet
from lmrc.corpus.types import Document
from tests.rcp import tiny

RELATIONS = RelationSet(("P17",), ("country",))


class MakeCorpus(Protocol):
    def __call__(
        self, name: str, documents: Sequence[Document], relations: RelationSet = ..., docs_per_shard: int = ...
    ) -> Corpus: ...


def columns_of(documents: Sequence[Document]) -> pa.RecordBatch:
    """Return the documents as columns of a corpus."""
    rows = [
        {
            "title": document.title,
            "sentences": document.sentences,
            "entities": [[dataclasses.asdict(mention) for mention in entity] for entity in document.entities],
            "labels": None if document.labels is None else [dataclasses.asdict(label) for label in document.labels],
            "duplicate_labels": 0,
        }
        for document in documents
    ]
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty cache, so that no test reads files of an earlier run."""
    monkeypatch.setenv("LMRC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def make_corpus(tmp_path: Path) -> MakeCorpus:
    def make(
        name: str, documents: Sequence[Document], relations: RelationSet = RELATIONS, docs_per_shard: int = 256
    ) -> Corpus:
        write_corpus(documents, tmp_path / name, relations, f"{name}.json", "0" * 64, docs_per_shard)
        return Corpus.open(tmp_path / name)

    return make


@pytest.fixture
def tiny_encoder(tmp_path: Path) -> Path:
    """Return a folder with a tiny pretrained encoder and its tokenizer."""
    folder = tmp_path / "encoder"
    tiny.encoder("bert").save_pretrained(folder)
    tokenizer = tiny.tokenizer("bert")
    assert isinstance(tokenizer, BertTokenizer)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def config(tiny_encoder: Path) -> RcpConfig:
    return RcpConfig.model_validate(
        {
            "model": {"encoder": str(tiny_encoder), "max_length": 2 * tiny.POSITIONS - 2},
            "train": {
                "precision": "fp32",
                "micro_batch_size": 2,
                "learning_rate": 1e-3,
                "classifier_learning_rate": 5e-3,
            },
        }
    )
