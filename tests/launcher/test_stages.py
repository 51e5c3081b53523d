from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmrc.cli.main import main
from lmrc.common.errors import UserError
from lmrc.config.schema import BuildConfig, FitConfig, JoinConfig, Options, RunOptions, SplitConfig
from lmrc.corpus.candidates import Candidate, Candidates, write_candidates
from lmrc.corpus.corpus import Corpus, write_corpus
from lmrc.corpus.docred import to_json
from lmrc.corpus.synthetic import generator as synthetic
from lmrc.fusion.fit import fit
from lmrc.fusion.model import Fusion
from lmrc.launcher.stages import BUILD, FIT, JOIN, SPLIT, Stage
from tests.fusion.examples import labeled
from tests.fusion.files import write_inputs


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    write_corpus(synthetic.generate(45, 3), tmp_path / "whole", synthetic.RELATIONS, "docs.json", "a" * 64, 16)
    return Corpus.open(tmp_path / "whole")


def run(stage: Stage, config: Options) -> dict[str, Any]:
    assert stage.run is not None
    stage.check(config)
    return stage.run(config)


def split_of(corpus: Corpus, **options: Any) -> SplitConfig:
    run = RunOptions(name="split", folder=corpus.folder.parent)
    return SplitConfig.model_validate({"run": run, "corpus": corpus.folder, **options})


def test_build_reads_documents_of_any_form_and_names_other_files_first(tmp_path: Path) -> None:
    raw = [to_json(document) for document in synthetic.generate(4, 3)]
    (tmp_path / "train.jsonl").write_text("".join(f"{json.dumps(document)}\n" for document in raw))
    pq.write_table(pa.Table.from_pylist(raw), tmp_path / "dev.parquet")
    documents = {"train": tmp_path / "train.jsonl", "dev": tmp_path / "dev.parquet"}
    (tmp_path / "rel2id.json").write_text(json.dumps({"Na": 0} | {r: i for i, r in enumerate(synthetic.RELATIONS, 1)}))
    given = {"documents": documents, "relations": tmp_path / "rel2id.json", "corpora": tmp_path / "data"}
    config = BuildConfig.model_validate(given)
    assert run(BUILD, config) == {"train": 4, "dev": 4}
    assert list(Corpus.open(tmp_path / "data" / "train")) == list(Corpus.open(tmp_path / "data" / "dev"))
    for path, content, message in (
        (tmp_path / "rel2id.json", '{"a": []}', "relation 'a' has the name"),
        (tmp_path / "dev.parquet", "version https://git-lfs.github.com/spec/v1\nsize 9\n", "dev.parquet: is a pointer"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            BUILD.check(config)


def test_build_mends_documents_only_on_request(tmp_path: Path) -> None:
    raw = to_json(next(iter(synthetic.generate(1, 3))))
    raw["labels"] = [{"h": 0, "t": 0, "r": synthetic.RELATIONS.ids[0]}]
    (tmp_path / "train.json").write_text(json.dumps([raw]))
    names = dict(zip(synthetic.RELATIONS.ids, synthetic.RELATIONS.names, strict=True))
    (tmp_path / "relations.json").write_text(json.dumps(names))
    given = {"documents": {"train": tmp_path / "train.json"}, "relations": tmp_path / "relations.json"}
    config = BuildConfig.model_validate({**given, "corpora": tmp_path / "data"})
    with pytest.raises(
        UserError, match=r"; the pipeline with --data\.fix mends it .* writes each change to .*train\.fixes"
    ):
        run(BUILD, config)
    assert run(BUILD, config.model_copy(update={"fix": True})) == {"train": 1}
    (line,) = (tmp_path / "data" / "train.fixes.jsonl").read_text().splitlines()
    assert json.loads(line)["change"] == "label left out"


def test_split_goes_on_after_its_first_part(corpus: Corpus, tmp_path: Path) -> None:
    config = split_of(corpus, folds=3, held_out=2)
    assert run(SPLIT, config) == {"documents": 45, "held_out": 22}
    folds, parts = tmp_path / "split" / "data" / "folds", tmp_path / "split" / "data" / "lm"
    assert sorted(path.name for path in folds.iterdir()) == ["0", "1", "2"]
    before = (parts / "train" / "manifest.json").read_bytes()
    shutil.rmtree(parts)
    written = (folds / "0" / "train" / "manifest.json").stat().st_mtime_ns
    assert run(SPLIT, config) == {"documents": 45, "held_out": 22}
    assert (parts / "train" / "manifest.json").read_bytes() == before
    assert (folds / "0" / "train" / "manifest.json").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"held_out": 3}, r"one in 3 of the 45 documents of .*whole leaves 15 .*needs 20: give --crossfit\.held-out 2"),
        ({"held_out": 2, "folds": 46}, r"crossfit\.folds is 46, but .*whole has 45 documents: give fewer"),
    ],
)
def test_parts_that_are_too_small(corpus: Corpus, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        SPLIT.check(split_of(corpus, **options))


def test_join_goes_on_after_its_first_part(corpus: Corpus, tmp_path: Path) -> None:
    run(SPLIT, split_of(corpus, folds=2, held_out=2))
    data = tmp_path / "split" / "data"
    proposed = []
    for fold in range(2):
        part = Corpus.open(data / "folds" / str(fold) / "held-out")
        rows = [(document.title, [Candidate(0, 1, 0.5 + fold / 4)]) for document in part]
        proposed.append(tmp_path / f"fold{fold}")
        write_candidates(rows, proposed[fold], part.fingerprint, 0.1)
    config = JoinConfig(
        run=RunOptions(name="join", folder=tmp_path),
        proposed=tuple(proposed),
        parts={part: data / "lm" / part for part in ("train", "held-out")},
    )
    assert run(JOIN, config) == {"train": 23, "held-out": 22}
    joined = tmp_path / "join" / "candidates"
    shutil.rmtree(joined / "held-out")
    written = (joined / "train" / "manifest.json").stat().st_mtime_ns
    assert run(JOIN, config) == {"train": 23, "held-out": 22}
    assert (joined / "train" / "manifest.json").stat().st_mtime_ns == written
    for part, corpus_of_part in config.parts.items():
        Candidates.open(joined / part).check(Corpus.open(corpus_of_part))
    shutil.rmtree(proposed[1])
    with pytest.raises(UserError, match="fold1"):
        JOIN.check(config)


def test_fit_equals_the_command(tmp_path: Path) -> None:
    questions = labeled(40)
    corpus, candidates, answers = write_inputs(questions, tmp_path)
    (tmp_path / "fit").mkdir()
    config = FitConfig(
        run=RunOptions(name="fit", folder=tmp_path),
        corpus=corpus.folder,
        candidates=candidates.folder,
        answers=answers,
    )
    result = run(FIT, config)
    assert (result["documents"], result["questions"]) == (40, len(questions.evidence))
    expected = fit(questions, corpus.fingerprint, corpus.relations.sha256)
    assert result["asked_share"] == pytest.approx(expected.band.share)
    found = Fusion.read(tmp_path / "fit" / "fusion.json")
    assert found.fitted_on == expected.fusion.fitted_on
    assert found.with_lm.lm == pytest.approx(expected.fusion.with_lm.lm, abs=1e-3)
    # An LM that names relations gives improbable ones no score; they count as in the command.
    scores = json.loads((answers / "scores-of-all.json").read_text())
    (answers / "scores-of-all.json").write_text(json.dumps([row for row in scores if row["score"] >= 0.3]))
    run(FIT, config)
    given = {"candidates": candidates.folder, "answers": answers, "corpus": corpus.folder, "out": tmp_path / "by-hand"}
    assert main(["fusion", "fit", *(str(word) for name, value in given.items() for word in (f"--{name}", value))]) == 0
    assert (tmp_path / "by-hand").read_bytes() == (tmp_path / "fit" / "fusion.json").read_bytes()
    assert Fusion.read(tmp_path / "by-hand").with_lm != found.with_lm
    (answers / "DONE").unlink()
    with pytest.raises(UserError, match=r"answers has not scored all candidates: repeat the command of the pipeline"):
        FIT.check(config)
    (answers / "DONE").write_text(json.dumps({}))
    (answers / "scores-of-all.json").unlink()
    with pytest.raises(UserError, match=r"answers has not scored all candidates"):
        FIT.check(config)
