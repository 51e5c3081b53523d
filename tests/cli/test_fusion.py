from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lmrc.cli.main import main
from lmrc.fusion.model import Fusion
from tests.fusion.examples import WITH_LM, labeled
from tests.fusion.files import write_inputs, write_run

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write_inputs(labeled(80), home)
    return home


def fit(home: Path, out: Path, *more: str, answers: Path | None = None) -> int:
    given = ["--candidates", home / "candidates", "--answers", answers or home / "answers"]
    given += ["--corpus", home / "corpus", "--out", out, *more]
    return main(["fusion", "fit", *map(str, given)])


def test_fit(home: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "fusion.json"
    assert fit(home, out, "--tokens-per-question", "12", "--splits", "5") == 0
    fusion = Fusion.read(out)
    assert fusion.with_lm.lm == pytest.approx(WITH_LM[3], abs=0.15)
    assert fusion.tokens_per_question == 12
    printed = capsys.readouterr().out
    row = ["with", "LM", *(f"{value:.3f}" for value in fusion.with_lm.model_dump().values())]
    assert row in [line.split() for line in printed.splitlines()]
    for words in ("80 documents, 3,840 questions", "cross-fitted", "fused, in the band", "LM tokens", "pairs asked"):
        assert words in printed
    assert f"{12 * 3840:,}" in printed and "% of the proposed pairs" in printed
    assert "precision 0.8: " in printed and "/5" in printed
    # Nothing depends on the machine or the time.
    assert fit(home, tmp_path / "again.json", "--tokens-per-question", "12") == 0
    assert out.read_bytes() == (tmp_path / "again.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"system": "fused"}, "its system is fused, but a fusion needs answers of the LM"),
        ({"candidates": None}, "classified the gold pairs"),
        ({"corpus": "OTHER/corpus"}, "classified other corpus"),
        ({"candidates": "OTHER/candidates"}, "classified other candidates"),
    ],
)
def test_runs_of_something_else(
    home: Path, tmp_path: Path, capsys: Capture, change: dict[str, str | None], message: str
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_inputs(labeled(3, seed=1), other)
    values = {name: value and value.replace("OTHER", str(other)) for name, value in change.items()}
    run = tmp_path / "run"
    run.mkdir()
    (run / "scores-of-all.json").write_text("[]")
    given = {"corpus": str(home / "corpus"), "candidates": str(home / "candidates"), "system": "rc"}
    write_run(run, **(given | values))
    assert fit(home, tmp_path / "fusion.json", answers=run) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "fusion.json").exists()


def test_unfinished_run_and_run_without_scores(home: Path, tmp_path: Path, capsys: Capture) -> None:
    write_run(tmp_path, corpus=str(home / "corpus"), candidates=str(home / "candidates"))
    assert fit(home, tmp_path / "fusion.json", answers=tmp_path) == 2
    assert "has no scores-of-all.json: classify again with --decode.mode score" in capsys.readouterr().err
    (tmp_path / "DONE").unlink()
    assert fit(home, tmp_path / "fusion.json", answers=tmp_path) == 2
    assert "is not finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "meaning"), [("rc", "they count as 0.01"), ("likelihood", "the LM was not asked them")]
)
def test_questions_without_a_score(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, meaning: str
) -> None:
    caplog.set_level("INFO")
    rows = json.loads((home / "answers" / "scores-of-all.json").read_text())
    (tmp_path / "scores-of-all.json").write_text(json.dumps(rows[1:]))
    shutil.copy(home / "answers" / "generations.jsonl", tmp_path)
    # The LM was asked about all relations.
    prompt = {"kind": kind, "min_relation_probability": 0.0}
    write_run(tmp_path, corpus=str(home / "corpus"), candidates=str(home / "candidates"), rc=None, prompt=prompt)
    assert fit(home, tmp_path / "fusion.json", answers=tmp_path) == 0
    assert f"1 of 3,840 questions have no score: {meaning}" in caplog.text


def test_other_corpus(home: Path, tmp_path: Path, capsys: Capture) -> None:
    write_inputs(labeled(3, seed=1), tmp_path)
    given = ["--candidates", home / "candidates", "--answers", home / "answers"]
    given += ["--corpus", tmp_path / "corpus", "--out", tmp_path / "fusion.json"]
    assert main(["fusion", "fit", *map(str, given)]) == 2
    assert "made from another corpus" in capsys.readouterr().err
