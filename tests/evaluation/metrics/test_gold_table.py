from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lmrc.common.errors import UserError
from lmrc.common.files import sha256_of
from lmrc.corpus.corpus import Corpus, write_corpus
from lmrc.corpus.docred import read_documents, to_json
from lmrc.corpus.relations import DOCRED
from lmrc.evaluation.metrics import gold_table as gold
from lmrc.evaluation.metrics.gold_table import COLUMNS, Gold, Source, read_gold
from tests.evaluation.examples import RELATIONS, document, family


def test_columns_of_two_documents() -> None:
    other = document("Other", [[("x", 0)], [("Ann", 1)]], [(1, 0, "P3")])
    columns = Gold.of([family(), other], RELATIONS)
    found = {name: getattr(columns, name).tolist() for name in COLUMNS}
    assert found == {
        "sentences": [3, 2],
        "words": [4, 2],
        "entities": [3, 2],
        "mentions": [1, 2, 1, 1, 1],
        "mention_sentence": [0, 0, 2, 1, 0, 1],
        "mention_name": [0, 1, 2, 3, 4, 0],
        "document": [0, 0, 0, 1],
        "head": [0, 0, 1, 1],
        "tail": [1, 1, 2, 0],
        "relation": [0, 1, 2, 2],
        "evidence_of": [],
        "evidence": [],
    }
    assert columns.titles == ("Family", "Other")
    assert columns.names == ("Ann", "Bob", "Robert", "Paris", "x")
    assert [columns.name(0, 1), columns.name(1, 1), columns.name(0, 3), columns.name(1, -1), columns.name(2, 0)] == [
        "Bob",
        "Ann",
        None,
        None,
        None,
    ]


def test_select_agrees_with_columns_of_the_selected_documents(shared_data: Path) -> None:
    dev = list(read_documents(shared_data / "redocred_dev.json", DOCRED))[:30]
    kept = np.array([index % 3 > 0 for index in range(30)])
    source = Source("dev.json", "ab" * 32)
    some = replace(Gold.of(dev, DOCRED), source=source).select(kept)
    alone = Gold.of([document for document, keep in zip(dev, kept, strict=True) if keep], DOCRED)
    for name in COLUMNS:
        if name != "mention_name":  # indices into `names`, which has the names of all documents
            assert np.array_equal(getattr(some, name), getattr(alone, name)), name
            assert getattr(some, name).dtype == np.int32
    assert (some.titles, some.source) == (alone.titles, source)
    assert [some.name(19, entity) for entity in range(9)] == [alone.name(19, entity) for entity in range(9)]


@pytest.mark.parametrize("at_once", [4096, 7])
def test_of_corpus_agrees_with_of_documents(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(gold, "DOCUMENTS_AT_ONCE", at_once)
    dev = list(read_documents(shared_data / "redocred_dev.json", DOCRED))[:60]
    write_corpus(dev, tmp_path / "corpus", DOCRED, "dev.json", "ab" * 32, docs_per_shard=25)
    one, other = Gold.of(dev, DOCRED), Gold.of_corpus(Corpus.open(tmp_path / "corpus"))
    for name in COLUMNS:
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert (one.titles, one.names) == (other.titles, other.names)
    assert other.source == Source("dev.json", "ab" * 32)
    assert len(one.evidence) == sum(len(label.evidence) for d in dev for label in d.labels or ()) > 1000


def test_read_gold_records_the_hash_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "docs.json"
    path.write_text(json.dumps([to_json(family())]))
    read = read_gold(path, RELATIONS)
    assert read.titles == ("Family",)
    assert read.source == Source("docs.json", sha256_of(path))


def test_invalid_gold_is_rejected(tmp_path: Path) -> None:
    unlabelled = document("Test", [[("a", 0)]], None)
    with pytest.raises(UserError, match="'Test' has no labels"):
        Gold.of([family(), unlabelled], RELATIONS)
    write_corpus([family(), unlabelled], tmp_path / "corpus", RELATIONS, "x", "0" * 64)
    with pytest.raises(UserError, match="'Test' has no labels"):
        read_gold(tmp_path / "corpus")
    with pytest.raises(UserError, match="two gold documents have the title 'Family'"):
        Gold.of([family(), family()], RELATIONS)
    with pytest.raises(UserError, match="outside the relation set, 'P9'"):
        Gold.of([document("x", [[("a", 0)], [("b", 0)]], [(0, 1, "P9")])], RELATIONS)
