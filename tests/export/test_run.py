from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from lmrc.cli.main import main
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.predictions import Prediction, write_predictions
from lmrc.export.lines import read_results
from tests.evaluation.report.test_build import run_of

Capture = pytest.CaptureFixture[str]


def test_triples_of_a_run_have_names_and_spans(tmp_path: Path, capsys: Capture) -> None:
    run = run_of(tmp_path, documents=3)
    assert main(["export", str(run), "--out", str(tmp_path / "t.jsonl")]) == 0
    corpus = list(Corpus.open(tmp_path / "corpus"))
    results = list(read_results(tmp_path / "t.jsonl"))
    assert [result.title for result in results] == [document.title for document in corpus[:3]]
    gold = {(label.head, label.tail, label.relation) for label in corpus[0].labels or ()}
    assert {(triple.head, triple.tail, triple.relation) for triple in results[0].triples} == gold
    first = results[0].triples[0]
    assert first.head_name == corpus[0].entities[first.head][0].name
    assert {results[0].text[start:end] for start, end in first.head_spans} >= {first.head_name}
    assert results[2].triples == ()
    count = sum(len(document.labels or ()) for document in corpus[:2])
    assert capsys.readouterr().out == f"{count} triples of 3 documents\n{tmp_path / 't.jsonl'}\n"


def test_a_table_and_a_page(tmp_path: Path) -> None:
    run = run_of(tmp_path, documents=None)
    options = ["--out", str(tmp_path / "t.csv"), "--merge-entities", "name", "--html", str(tmp_path / "p.html")]
    assert main(["export", str(run), *options]) == 0
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(json.loads((run / "predictions.json").read_text()))
    assert rows[0]["document"] in (tmp_path / "p.html").read_text()


def test_what_is_unknown_is_counted(tmp_path: Path, capsys: Capture) -> None:
    run = run_of(tmp_path, documents=None)
    title = next(iter(Corpus.open(tmp_path / "corpus"))).title
    relation = Corpus.open(tmp_path / "corpus").relations.ids[0]
    wrong = [
        Prediction(title, 0, 1, "P0 of no set"),
        Prediction(title, 0, 999, relation),
        Prediction("no document", 0, 1, relation),
        Prediction(title, 0, 1, relation),
    ]
    write_predictions(wrong, run / "predictions.json")
    assert main(["export", str(run), "--out", str(tmp_path / "t.jsonl")]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("1 triple of 4 documents\n3 triples of unknown documents, entities or relations left out\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing to write: give --out"),
        (["--out", "t.json"], "the submission format has no names"),
        (["--out", "t.xml"], "the end of its name tells no format"),
        (["--out", "t.jsonl", "--merge-entities", "name"], "--merge-entities has no effect"),
    ],
)
def test_mistakes(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run_of(tmp_path, documents=None)), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "t.jsonl").exists()
