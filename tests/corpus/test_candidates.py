from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrc.common.errors import CorpusError
from lmrc.corpus.candidates import Candidate, Candidates, CandidatesManifest, RelationLogit, write_candidates
from lmrc.corpus.corpus import Corpus, write_corpus
from lmrc.corpus.relations import DOCRED
from lmrc.corpus.shards import write_folder
from lmrc.corpus.types import Document, Mention

PAIRS = st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda pair: pair[0] != pair[1])
ROWS = st.lists(st.tuples(st.text(max_size=5), st.dictionaries(PAIRS, st.floats(0, 1), max_size=8)), max_size=6)


def corpus(out: Path, titles: Sequence[str]) -> Corpus:
    entities = ((Mention("A", 0, 0, 1, "PER"),), (Mention("B", 0, 1, 2, "PER"),))
    documents = [Document(title, (("A", "B"),), entities, None) for title in titles]
    write_corpus(documents, out, DOCRED, "docs.json", "0" * 64)
    return Corpus.open(out)


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_candidates_come_back_sorted(
    tmp_path_factory: pytest.TempPathFactory, given: list[tuple[str, dict[tuple[int, int], float]]]
) -> None:
    out = tmp_path_factory.mktemp("c") / "out"
    rows = [(title, [Candidate(h, t, p) for (h, t), p in pairs.items()]) for title, pairs in given]
    manifest = write_candidates(rows, out, "f" * 64, 0.25, docs_per_shard=2)
    read = Candidates.open(out)
    assert list(read) == [tuple(Candidate(h, t, p) for (h, t), p in sorted(pairs.items())) for _, pairs in given]
    assert [read.title(index) for index in range(len(read))] == [title for title, _ in given]
    assert read.threshold == 0.25
    assert manifest.candidates == sum(len(pairs) for _, pairs in given)
    assert manifest.documents == len(read) == len(given)


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ([Candidate(1, 1, 0.5)], r"\(1, 1\) is not a pair of two entities"),
        ([Candidate(-1, 1, 0.5)], r"\(-1, 1\) is not a pair of two entities"),
        ([Candidate(1, 2, 0.5), Candidate(0, 1, 0.5), Candidate(1, 2, 0.6)], r"the pair \(1, 2\) occurs twice"),
        ([Candidate(0, 1, 1.5)], "has the probability 1.5, expected 0 to 1"),
        ([Candidate(0, 1, float("nan"))], "has the probability nan, expected 0 to 1"),
        ([Candidate(0, 1, 0.5, (RelationLogit("P17", float("inf")),))], r"pair \(0, 1\) has no finite log-odds"),
    ],
)
def test_bad_candidates_leave_nothing(tmp_path: Path, candidates: list[Candidate], message: str) -> None:
    with pytest.raises(ValueError, match=f"'b': .*{message}"):
        write_candidates([("a", []), ("b", candidates)], tmp_path / "out", "f" * 64, 0.5, docs_per_shard=1)
    assert list(tmp_path.iterdir()) == []


def test_relations_of_candidates_come_back_in_order(tmp_path: Path) -> None:
    rows = [
        ("a", [Candidate(1, 0, 0.5), Candidate(0, 1, 0.9, (RelationLogit("P27", -4.5), RelationLogit("P17", 2.25)))]),
        ("b", []),
    ]
    write_candidates(rows, tmp_path / "out", "f" * 64, 0.5)
    assert list(Candidates.open(tmp_path / "out")) == [tuple(rows[0][1][::-1]), ()]


def test_folders_without_relations_still_open(tmp_path: Path) -> None:
    """Earlier versions wrote head, tail and probability only."""
    pair = pa.struct({"head": pa.int32(), "tail": pa.int32(), "probability": pa.float64()})
    schema = pa.schema({"title": pa.string(), "candidates": pa.list_(pair)})
    candidate = {"head": 0, "tail": 1, "probability": 0.75}
    rows = [{"title": "a", "candidates": [candidate]}, {"title": "b", "candidates": []}]

    def manifest(**shards: Any) -> CandidatesManifest:
        return CandidatesManifest(corpus_fingerprint="f" * 64, threshold=0.5, candidates=1, **shards)

    write_folder(tmp_path / "out", schema, rows, 256, manifest)
    candidates = Candidates.open(tmp_path / "out")
    candidates.verify()
    assert list(candidates) == [(Candidate(0, 1, 0.75),), ()]
    assert candidates[0][0].relations == ()


def test_rows_are_read_one_shard_at_a_time(tmp_path: Path) -> None:
    def rows() -> Iterator[tuple[str, list[Candidate]]]:
        for index in range(6):
            assert len(list(tmp_path.rglob("*.arrow"))) == index // 2
            yield str(index), [Candidate(0, 1, 0.5)]

    assert write_candidates(rows(), tmp_path / "out", "f" * 64, 0.5, docs_per_shard=2).documents == 6


def test_candidates_of_another_corpus_are_refused(tmp_path: Path) -> None:
    mine, other = corpus(tmp_path / "mine", ["a", "b"]), corpus(tmp_path / "other", ["a", "c"])
    write_candidates([("a", []), ("b", [])], tmp_path / "out", mine.fingerprint, 0.5)
    candidates = Candidates.open(tmp_path / "out")
    candidates.check(mine)
    with pytest.raises(CorpusError, match=r"made from another corpus .*propose candidates for this corpus"):
        candidates.check(other)


def test_candidates_must_cover_the_corpus(tmp_path: Path) -> None:
    mine = corpus(tmp_path / "mine", ["a", "b"])
    write_candidates([("a", [])], tmp_path / "out", mine.fingerprint, 0.5)
    with pytest.raises(CorpusError, match=r"covers 1 documents, but .* has 2"):
        Candidates.open(tmp_path / "out").check(mine)


def test_corpora_and_damaged_folders_are_refused(tmp_path: Path) -> None:
    corpus(tmp_path / "mine", ["a"])
    with pytest.raises(CorpusError, match="holds corpus, expected candidates"):
        Candidates.open(tmp_path / "mine")
    write_candidates([("a", [Candidate(0, 1, 0.5)])], tmp_path / "out", "f" * 64, 0.5)
    shard = tmp_path / "out" / "shard-00000.arrow"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    candidates = Candidates.open(tmp_path / "out")
    for attempt in (lambda: candidates[0], lambda: candidates.title(0), candidates.verify):
        with pytest.raises(CorpusError, match="sha256"):
            attempt()


def test_newer_candidates_are_refused(tmp_path: Path) -> None:
    write_candidates([("a", [])], tmp_path / "out", "f" * 64, 0.5)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    (tmp_path / "out" / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 99}))
    with pytest.raises(CorpusError, match="newer version"):
        Candidates.open(tmp_path / "out")


def test_wrong_folder_gets_a_suggestion(tmp_path: Path) -> None:
    written = tmp_path / "run" / "candidates"
    write_candidates([], written, "0" * 64, 0.5)
    with pytest.raises(CorpusError, match=rf"did you mean {written}\?"):
        Candidates.open(tmp_path / "run")
    with pytest.raises(CorpusError, match=r"nowhere: no such folder; launch/propose\.py writes candidates"):
        Candidates.open(tmp_path / "nowhere")
