from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmrc.common.errors import UserError
from lmrc.corpus.build import build_corpus, sample
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.docred import to_json
from lmrc.corpus.synthetic.generator import RELATIONS, generate


@given(documents=st.integers(0, 2000), share=st.floats(0, 1), seed=st.integers(0, 10**6))
def test_sample_is_unique_and_ordered(documents: int, share: float, seed: int) -> None:
    count = round(documents * share)
    drawn = sample(documents, count, seed)
    assert drawn == sorted(set(drawn))
    assert len(drawn) == count
    assert set(drawn) <= set(range(documents))
    assert drawn == sample(documents, count, seed)


def test_sample_is_uniform() -> None:
    # 100 of the 998 documents of DocRED's dev set.
    times = Counter(index for seed in range(2000) for index in sample(998, 100, seed))
    expected = 2000 * 100 / 998
    assert len(times) == 998
    assert max(abs(count - expected) for count in times.values()) < 5 * expected**0.5


def test_sample_larger_than_the_corpus() -> None:
    with pytest.raises(UserError, match="cannot sample 101 documents of 100: give at most 100"):
        sample(100, 101, 0)


def test_corpus_of_sampled_documents(tmp_path: Path) -> None:
    documents = list(generate(12, seed=3))
    (tmp_path / "docs.json").write_text(json.dumps([to_json(document) for document in documents]))
    names = dict(zip(RELATIONS.ids, RELATIONS.names, strict=True))
    (tmp_path / "relations.json").write_text(json.dumps(names))
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        build_corpus(tmp_path / "docs.json", tmp_path / out, tmp_path / "relations.json", sample_size=5, seed=seed)
    a, b, c = ([document.title for document in Corpus.open(tmp_path / name)] for name in "abc")
    assert a == b != c
    assert a == [documents[index].title for index in sample(12, 5, 1)]
    assert Corpus.open(tmp_path / "a").manifest.source == "docs.json, 5 drawn by seed 1"
    with pytest.raises(UserError, match="cannot sample 13 documents of 12"):
        build_corpus(tmp_path / "docs.json", tmp_path / "d", tmp_path / "relations.json", sample_size=13)
    assert not (tmp_path / "d").exists()
