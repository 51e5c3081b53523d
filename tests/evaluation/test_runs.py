from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from lmrc.corpus import synthetic
from lmrc.corpus.arrow import write_corpus
from lmrc.errors import RunError
from lmrc.evaluation.evaluated import read_evaluated
from lmrc.evaluation.predictions import Prediction, write_predictions
from lmrc.evaluation.report import write_report
from lmrc.evaluation.runs import sections


def run_of(folder: Path, documents: int | None) -> Path:
    """A classify run that found every gold triple of the first two of four documents."""
    gold = list(synthetic.generate(4, 7))
    write_corpus(gold, folder / "corpus", synthetic.RELATIONS, "made up", "0" * 64)
    run = folder / "run"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump({"corpus": str(folder / "corpus"), "documents": documents}))
    found = [Prediction(d.title, x.head, x.tail, x.relation) for d in gold[:2] for x in d.labels or ()]
    write_predictions(found, run / "predictions.json")
    return run


def test_a_run_over_the_first_documents_is_measured_on_these(tmp_path: Path) -> None:
    evaluated = read_evaluated(run_of(tmp_path, documents=2))
    assert evaluated is not None
    assert len(evaluated.documents) == 2
    assert evaluated.scores.all.f1 == 100.0


def test_a_run_over_all_documents(tmp_path: Path) -> None:
    evaluated = read_evaluated(run_of(tmp_path, documents=None))
    assert evaluated is not None
    assert evaluated.scores.all.precision == 100.0
    assert evaluated.scores.all.recall < 100.0


def test_a_run_without_predictions_has_no_scores(tmp_path: Path) -> None:
    run = run_of(tmp_path, documents=2)
    (run / "predictions.json").unlink()
    assert read_evaluated(run) is None
    with pytest.raises(RunError, match="is no run folder"):
        read_evaluated(tmp_path / "corpus" / "nothing")


def test_the_page_has_scores_curves_and_documents(tmp_path: Path) -> None:
    run = run_of(tmp_path, documents=2)
    (run / "metrics.jsonl").write_text("".join(json.dumps({"step": i, "loss": 1 / i}) + "\n" for i in (1, 2, 3)))
    evaluated = read_evaluated(run)
    assert evaluated is not None
    parts = sections([evaluated], [run])
    assert [part.heading for part in parts] == [
        "Scores",
        "F1 by relation",
        "Relations",
        "Learning curves: run",
        "Data",
        "Documents",
    ]
    page = write_report(tmp_path / "report.html", "A title", *parts).read_text()
    assert evaluated.documents[1].title in page
    assert "100.00" in page
