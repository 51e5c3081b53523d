from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from transformers import BertTokenizer

from lmrc.config import RcpConfig
from lmrc.corpus.arrow import Corpus, write_corpus
from lmrc.corpus.docred import Document
from lmrc.corpus.relations import RelationSet
from tests.rcp import tiny

RELATIONS = RelationSet(("P17",), ("country",))
MakeCorpus = Callable[[str, Sequence[Document]], Corpus]


@pytest.fixture
def make_corpus(tmp_path: Path) -> MakeCorpus:
    def make(name: str, documents: Sequence[Document]) -> Corpus:
        write_corpus(documents, tmp_path / name, RELATIONS, source=f"{name}.json", source_sha256="0" * 64)
        return Corpus.open(tmp_path / name)

    return make


@pytest.fixture
def tiny_encoder(tmp_path: Path) -> Path:
    """A folder with a tiny pretrained encoder and its tokenizer."""
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
            "model": {"encoder": str(tiny_encoder)},
            "train": {
                "precision": "fp32",
                "micro_batch_size": 2,
                "learning_rate": 1e-3,
                "classifier_learning_rate": 5e-3,
            },
        }
    )
