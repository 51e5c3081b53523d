from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lmrc.cli.main import main
from lmrc.common.errors import CorpusError, UserError
from lmrc.corpus.candidates import Candidate, Candidates, RelationLogit, write_candidates
from lmrc.corpus.corpus import Corpus, write_corpus
from lmrc.corpus.folds import hold_out, join_candidates, split_corpus
from lmrc.corpus.synthetic import generator as synthetic


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    write_corpus(synthetic.generate(7, 3), tmp_path / "whole", synthetic.RELATIONS, "docs.json", "a" * 64, 2)
    return Corpus.open(tmp_path / "whole")


def proposed(corpus: Corpus, out: Path, threshold: float = 0.5, probability: float = 0.75) -> Path:
    """Write two candidates for each document but the first, with relations."""
    relations = (RelationLogit("P17", 1.5), RelationLogit("P27", -2.25))
    rows = [
        (document.title, [Candidate(0, 1, probability, relations), Candidate(1, 0, 0.9)] if index else [])
        for index, document in enumerate(corpus)
    ]
    write_candidates(rows, out, corpus.fingerprint, threshold)
    return out


@pytest.mark.parametrize("folds", [2, 3, 7])
def test_each_document_is_held_out_once(corpus: Corpus, tmp_path: Path, folds: int) -> None:
    manifests = split_corpus(corpus, folds, tmp_path / "folds")
    assert len(manifests) == folds == len(list((tmp_path / "folds").iterdir()))
    whole = list(corpus)
    for fold in range(folds):
        train = Corpus.open(tmp_path / "folds" / str(fold) / "train")
        held_out = Corpus.open(tmp_path / "folds" / str(fold) / "held-out")
        assert list(held_out) == [document for index, document in enumerate(whole) if index % folds == fold]
        assert list(train) == [document for index, document in enumerate(whole) if index % folds != fold]
        assert manifests[fold] == (train.manifest, held_out.manifest)
        for part in (train, held_out):
            assert part.relations == corpus.relations
            assert part.manifest.source_sha256 == "a" * 64 and part.manifest.docs_per_shard == 2
        assert held_out.manifest.source == f"docs.json, fold {fold} of {folds}"
        assert train.manifest.source == f"docs.json, without fold {fold} of {folds}"
    assert sum(held_out.triples for _, held_out in manifests) == corpus.manifest.triples


@pytest.mark.parametrize("folds", [1, 8])
def test_number_of_folds(corpus: Corpus, tmp_path: Path, folds: int) -> None:
    with pytest.raises(UserError, match=rf"cannot split the 7 documents of .*whole into {folds} folds: give 2 to 7"):
        split_corpus(corpus, folds, tmp_path / "folds")


@pytest.mark.parametrize("one_in", [2, 3, 7])
def test_the_last_fold_is_held_out(corpus: Corpus, tmp_path: Path, one_in: int) -> None:
    manifests = hold_out(corpus, one_in, tmp_path / "parts")
    split_corpus(corpus, one_in, tmp_path / "folds")
    for manifest, part in zip(manifests, ("train", "held-out"), strict=True):
        found = Corpus.open(tmp_path / "parts" / part)
        assert found.manifest == manifest == Corpus.open(tmp_path / "folds" / str(one_in - 1) / part).manifest


@pytest.mark.parametrize("one_in", [1, 8])
def test_number_of_parts(corpus: Corpus, tmp_path: Path, one_in: int) -> None:
    with pytest.raises(UserError, match=rf"cannot hold out one in {one_in} of the 7 documents of .*: give 2 to 7"):
        hold_out(corpus, one_in, tmp_path / "parts")
    assert not (tmp_path / "parts").exists()


def test_failed_split_leaves_nothing(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("kept")
    with pytest.raises(UserError, match="used: exists already and is not an empty folder"):
        split_corpus(corpus, 2, tmp_path / "used")
    written: list[Path] = []

    def fail(*arguments: object) -> None:
        written.append(Path(str(arguments[1])))
        if len(written) == 3:
            raise OSError("disk")
        write_corpus(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("lmrc.corpus.folds.write_corpus", fail)
    with pytest.raises(OSError, match="disk"):
        split_corpus(corpus, 2, tmp_path / "folds")
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "used"}


def test_joined_candidates_are_those_of_the_parts(corpus: Corpus, tmp_path: Path) -> None:
    split_corpus(corpus, 3, tmp_path / "folds")
    parts = [Corpus.open(tmp_path / "folds" / str(fold) / "held-out") for fold in range(3)]
    folders = [
        proposed(part, tmp_path / f"candidates-{fold}", (0.3, 0.6, 0.5)[fold], (0.8, 0.7, 0.6)[fold])
        for fold, part in enumerate(parts)
    ]
    # The order of the folders does not matter.
    manifest = join_candidates(folders[::-1], corpus, tmp_path / "joined")
    joined = Candidates.open(tmp_path / "joined")
    joined.check(corpus)
    assert [joined.title(index) for index in range(7)] == [document.title for document in corpus]
    assert joined.threshold == 0.6
    opened = [Candidates.open(folder) for folder in folders]
    assert list(joined) == [opened[index % 3][index // 3] for index in range(7)]
    assert manifest.candidates == sum(map(len, joined)) == 8


def without_last(corpus: Corpus, folders: list[Path]) -> tuple[list[Path], Corpus]:
    return folders[:1], corpus


def twice(corpus: Corpus, folders: list[Path]) -> tuple[list[Path], Corpus]:
    return [*folders, folders[0]], corpus


def of_other_documents(corpus: Corpus, folders: list[Path]) -> tuple[list[Path], Corpus]:
    # Documents with these titles and a pair of the entities 98 and 99.
    part = Corpus.open(corpus.folder.parent / "folds" / "1" / "held-out")
    rows = [(document.title, [Candidate(98, 99, 0.9)]) for document in part]
    write_candidates(rows, corpus.folder.parent / "odd", part.fingerprint, 0.5)
    return [folders[0], corpus.folder.parent / "odd"], corpus


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_last, r"candidates-0: 3 of the 7 documents in .*whole have no candidates, such as {1}"),
        (twice, r"candidates-0: the document {0} occurs in .*candidates-0 too: give candidates in which each"),
        (of_other_documents, r"odd: a candidate of {1} is beyond its \d+ entities in .*whole"),
    ],
)
def test_candidates_that_do_not_make_up_the_corpus(
    corpus: Corpus,
    tmp_path: Path,
    change: Callable[[Corpus, list[Path]], tuple[list[Path], Corpus]],
    message: str,
) -> None:
    split_corpus(corpus, 2, tmp_path / "folds")
    folders = [
        proposed(Corpus.open(tmp_path / "folds" / str(fold) / "held-out"), tmp_path / f"candidates-{fold}")
        for fold in range(2)
    ]
    titles = [re.escape(repr(document.title)) for document in corpus]
    with pytest.raises(CorpusError, match=message.format(*titles)):
        join_candidates(*change(corpus, folders), tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


def test_commands(corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folds, whole = tmp_path / "folds", str(corpus.folder)
    assert main(["data", "split", whole, "--folds", "2", "--out", str(folds)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{folds}/0: 3 documents to train on, 4 held out",
        f"{folds}/1: 4 documents to train on, 3 held out",
    ]
    given = [str(proposed(Corpus.open(folds / f"{n}" / "held-out"), tmp_path / f"c{n}")) for n in range(2)]
    assert main(["data", "join-candidates", *given, "--corpus", whole, "--out", str(tmp_path / "joined")]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/joined: 10 candidates of 7 documents; threshold 0.5\n"
    assert main(["data", "join-candidates", given[0], "--corpus", whole, "--out", str(tmp_path / "more")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_candidates_of_a_part_of_the_corpus(corpus: Corpus, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Those of other documents are left out, and counted."""
    split_corpus(corpus, 2, tmp_path / "folds")
    folders = [
        proposed(Corpus.open(tmp_path / "folds" / str(fold) / "held-out"), tmp_path / f"candidates-{fold}")
        for fold in range(2)
    ]
    part = Corpus.open(tmp_path / "folds" / "1" / "held-out")
    with caplog.at_level("INFO"):
        join_candidates(folders, part, tmp_path / "part")
    assert "left out the candidates of 4 documents that are not in" in caplog.text
    joined = Candidates.open(tmp_path / "part")
    joined.check(part)
    assert list(joined) == list(Candidates.open(folders[1]))
