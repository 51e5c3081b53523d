"""The demo end to end, on tiny random models."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lmrc.cli.main import main
from tests.conftest import ROOT


@pytest.mark.slow
def test_pipeline_from_documents_to_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LMRC_CACHE", str(tmp_path / "cache"))
    arguments = ["demo", "--config", str(ROOT / "configs/smoke.yaml"), "--run.folder", str(tmp_path), "--run", "smoke"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    run = tmp_path / "smoke"
    summary = json.loads((run / "summary.json").read_text())
    assert {"rcp_f1", "final_f1", "untrained_f1", "seconds"} <= summary.keys()
    assert all(0.0 <= summary[key] <= 100.0 for key in ("rcp_f1", "final_f1", "untrained_f1"))
    assert shown.splitlines()[-1].startswith(f"RCP F1 {summary['rcp_f1']:.1f}, final F1 {summary['final_f1']:.1f}")
    assert "[4/4] the same with untrained models, to compare" in shown
    assert f"lmrc extract docs.json --rcp {run}/rcp/best --rc {run}/rc/best" in shown
    # Every stage is a finished run.
    for stage in ("rcp", "propose", "rc", "lmrc", "untrained"):
        assert (run / stage / "DONE").exists(), stage
        assert (run / stage / "config.yaml").exists(), stage
    # Only proposed pairs of held-out documents are predicted.
    from lmrc.corpus.candidates import Candidates
    from lmrc.corpus.corpus import Corpus

    corpus, candidates = Corpus.open(run / "data" / "test"), Candidates.open(run / "propose" / "candidates")
    proposed = {
        (document.title, candidate.head, candidate.tail)
        for document, row in zip(corpus, candidates, strict=True)
        for candidate in row
    }
    predictions = json.loads((run / "lmrc" / "predictions.json").read_text())
    assert {(p["title"], p["h_idx"], p["t_idx"]) for p in predictions} <= proposed
    page = (run / "report.html").read_text()
    assert corpus[0].title.split("'")[0] in page
    # The page loads nothing from the network. XML namespaces look like URLs but are none.
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", page)

    # `lmrc score` gives the same F1.
    out = tmp_path / "scores.json"
    pred = run / "lmrc" / "predictions.json"
    assert main(["score", "--gold", str(run / "data" / "test"), "--pred", str(pred), "--json", str(out)]) == 0
    assert json.loads(out.read_text())["f1"] == summary["final_f1"]

    # A second start shows the result. If one stage is missing, only that stage runs again.
    capsys.readouterr()
    assert main(arguments) == 0
    assert "Starting" not in capsys.readouterr().out
    (run / "DONE").unlink()
    (run / "lmrc" / "DONE").unlink()
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "rcp is finished" in shown
    assert "Resuming classify in " in shown
    assert json.loads((run / "summary.json").read_text())["final_f1"] == summary["final_f1"]


def test_long_is_a_config_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--long", "--config", "x.yaml"]) == 2
    assert (
        "--long is a config of its own, demo-long.yaml: leave out either --long or --config" in capsys.readouterr().err
    )
    assert read_yaml("demo-long.yaml")["run"] == {"name": "demo-long"}
    assert read_yaml("demo.yaml").keys() == read_yaml("demo-long.yaml").keys() - {"run"}


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / "configs" / name).read_text())
