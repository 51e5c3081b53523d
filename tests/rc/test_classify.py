from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from lmrc.config import ClassifyConfig, DecodeOptions, RunOptions
from lmrc.corpus.candidates import Candidate, write_candidates
from lmrc.corpus.relations import RelationSet
from lmrc.errors import UserError
from lmrc.evaluation.predictions import Prediction, read_predictions
from lmrc.rc import classify
from tests.rc import tiny
from tests.rc.conftest import Learnt

GOLD = {
    Prediction("one", 0, 1, "P26"),
    Prediction("one", 1, 2, "P17"),
    Prediction("one", 1, 2, "P495"),
    Prediction("three", 0, 1, "P17"),
}


def config(learnt: Learnt, runs: Path, **options: object) -> ClassifyConfig:
    run = RunOptions(name="classify", folder=runs)
    return ClassifyConfig(run=run, corpus=learnt.corpus.folder, rc=learnt.adapter, **options)


def test_gold_pairs(learnt: Learnt, tmp_path: Path) -> None:
    """What was learnt by heart comes back, through files alone."""
    counts = classify.run(config(learnt, tmp_path))
    assert counts == {
        "documents": 3,
        "documents_without_pairs": 1,
        "queries": 2,
        "pairs": 3,
        "predictions": 4,
        "unfinished": 0,
        "none": 0,
    }
    folder = tmp_path / "classify"
    assert set(read_predictions(folder / "predictions.json")) == GOLD
    rows = [json.loads(row) for row in (folder / "generations.jsonl").read_text().splitlines()]
    assert rows[1] == {
        "document": 2,
        "title": "three",
        "pairs": [[0, 1]],
        "answer": "(Zoë| country| France)",
        "finished": True,
        "failures": {},
        "unknown_relations": [],
    }
    assert sorted(path.name for path in folder.iterdir()) == ["generations.jsonl", "predictions.json"]


def test_direct_asks_for_all_pairs(learnt_direct: Learnt, tmp_path: Path) -> None:
    counts = classify.run(config(learnt_direct, tmp_path))
    assert read_predictions(tmp_path / "classify" / "predictions.json") == [Prediction("three", 0, 1, "P17")]
    assert (counts["pairs"], counts["none"], counts["documents_without_pairs"]) == (4, 3, 0)


def test_candidates(learnt: Learnt, tmp_path: Path) -> None:
    rows = [("one", [Candidate(0, 1, 0.9), Candidate(1, 2, 0.6)]), ("two", []), ("three", [])]
    write_candidates(rows, tmp_path / "candidates", learnt.corpus.fingerprint, 0.5)
    counts = classify.run(config(learnt, tmp_path, candidates=tmp_path / "candidates"))
    assert counts["documents_without_pairs"] == 2
    predictions = set(read_predictions(tmp_path / "classify" / "predictions.json"))
    assert predictions == {prediction for prediction in GOLD if prediction.title == "one"}


def test_first_documents_only(learnt: Learnt, tmp_path: Path) -> None:
    counts = classify.run(config(learnt, tmp_path, documents=2))
    assert (counts["documents"], counts["queries"]) == (2, 1)


def test_answers_cut_short_are_counted(learnt: Learnt, tmp_path: Path) -> None:
    """An LM that has not learnt to stop uses up its room."""
    untrained = learnt.corpus.folder.parent / "untrained"
    untrained.mkdir()
    for path in learnt.adapter.iterdir():
        (untrained / path.name).write_bytes(path.read_bytes())
    weights = load_file(untrained / "adapter_model.safetensors")
    save_file({name: 0 * tensor for name, tensor in weights.items()}, untrained / "adapter_model.safetensors")
    free = config(learnt, tmp_path, decode=DecodeOptions(mode="free"))
    counts = classify.run(free.model_copy(update={"rc": untrained}))
    assert counts["unfinished"] == 2
    assert counts["unanswered_pair"] == 3
    assert read_predictions(tmp_path / "classify" / "predictions.json") == []


def test_candidates_of_another_corpus_are_refused(learnt: Learnt, tmp_path: Path) -> None:
    write_candidates([("one", [])], tmp_path / "candidates", "0" * 64, 0.5)
    with pytest.raises(UserError, match="made from another corpus"):
        classify.run(config(learnt, tmp_path, candidates=tmp_path / "candidates"))
    assert not (tmp_path / "classify").exists()


def test_corpus_with_other_relations_is_refused(learnt: Learnt, tmp_path: Path) -> None:
    fewer = RelationSet((*tiny.RELATIONS.ids, "P1"), (*tiny.RELATIONS.names, "new one"))
    other = tiny.corpus(tmp_path / "other", tiny.DOCUMENTS, fewer)
    with pytest.raises(UserError, match="trained with another relation set"):
        classify.run(config(learnt, tmp_path).model_copy(update={"corpus": other.folder}))


def test_documents_without_labels_need_candidates(learnt: Learnt, tmp_path: Path) -> None:
    unlabelled = tiny.corpus(tmp_path / "unlabelled", [replace(document, labels=None) for document in tiny.DOCUMENTS])
    with pytest.raises(UserError, match="'one' has no labels"):
        classify.run(config(learnt, tmp_path).model_copy(update={"corpus": unlabelled.folder}))


def test_answers_too_short_for_a_single_pair_are_refused(learnt: Learnt, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"raise decode\.max_new_tokens"):
        classify.run(config(learnt, tmp_path, decode=DecodeOptions(max_new_tokens=5)))


def test_adapter_folder_that_is_none(learnt: Learnt, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give the folder of a trained adapter"):
        classify.run(config(learnt, tmp_path).model_copy(update={"rc": tmp_path}))


def test_progress_off_a_terminal_is_a_line_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 25))
    monkeypatch.setattr("lmrc.rc.classify.time.monotonic", lambda: next(clock))
    numbers: list[Any] = list(range(7))
    assert list(classify._progress(numbers, 7)) == numbers
    assert capsys.readouterr().err.splitlines() == [
        "classify: 3 of 7 queries, about 2 min left",
        "classify: 6 of 7 queries, about 0 min left",
    ]
