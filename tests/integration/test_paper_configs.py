"""The configs of tables 5 and 8 of the paper run to predictions, with a small model or a stand-in server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmrc.cli.main import main as lmrc
from lmrc.launcher.launch import main
from lmrc.launcher.stages import CLASSIFY
from tests.conftest import ROOT
from tests.rc.conftest import Learnt, base, learnt  # noqa: F401 (fixtures)
from tests.rc.decoding.openai.scripted import serve


@pytest.mark.parametrize("path", sorted((ROOT / "configs/rc-gold").glob("*.yaml")), ids=lambda path: path.stem)
def test_rc_on_the_gold_pairs(path: Path, learnt: Learnt, tmp_path: Path) -> None:  # noqa: F811
    given = ["--corpus", str(learnt.corpus.folder), "--rc", str(learnt.adapter), "--run.folder", str(tmp_path)]
    assert main(CLASSIFY, ["--config", str(path), *given, "--where", "here"]) == 0
    run = tmp_path / f"rc-gold-{path.stem}"
    asked = [json.loads(line)["pairs"] for line in (run / "generations.jsonl").read_text().splitlines()]
    assert asked == [[[0, 1], [1, 2]], [[0, 1]]]
    found = {(row["title"], row["r"]) for row in json.loads((run / "predictions.json").read_text())}
    assert found == {("one", "P26"), ("one", "P17"), ("one", "P495"), ("three", "P17")}


def test_an_api_model_after_three_demonstrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LMRC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", "nothing")
    for name, documents in (("train", "6"), ("dev", "2")):
        assert lmrc(["data", "synth", "--docs", documents, "--seed", documents, "--out", f"{name}.json"]) == 0
        relations = ["--relations", f"{name}.relations.json"]
        assert lmrc(["data", "build", f"{name}.json", "--out", name, *relations]) == 0
    with serve() as server:
        given = ["--corpus", "dev", "--few-shot.corpus", "train", "--base", "embedded:tiny-llm"]
        given += ["--server.url", server.url, "--server.tokens-per-minute", "1000000", "--where", "here"]
        config = str(ROOT / "configs/few-shot/docred.yaml")
        assert main(CLASSIFY, ["--config", config, *given]) == 0
    assert (tmp_path / "runs/few-shot-docred/predictions.json").is_file()
    assert server.asked
    for body in server.asked:
        assert body["model"] == "gpt-4-turbo"
        assert [message["role"] for message in body["messages"]] == ["user", "assistant"] * 3 + ["user"]
