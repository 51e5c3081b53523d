"""Tests against real vLLM, in the environment of `make vllm`. They share one engine."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from lmrc.config.schema import ClassifyConfig, DecodeOptions, RunOptions
from lmrc.corpus.predictions import read_predictions
from lmrc.rc.decoding.vllm_backend import VllmBackend
from lmrc.rc.decoding.vllm_engine import NextTokens, VllmEngine
from lmrc.rc.predict import ClassifyInference
from tests.rc import tiny
from tests.rc.conftest import Learnt

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm"),
]


@pytest.fixture
def shared_engine(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> VllmEngine:
    """Let all backends have the engine."""
    monkeypatch.setattr(VllmBackend, "engine", engine)
    return engine


def classify(
    learnt: Learnt, folder: Path, adapter: Path | None = None, candidates: Path | None = None, **decode: Any
) -> dict[tuple[str, int, int, str], float | None]:
    """Return the scores of all triples."""
    name = decode["backend"]
    config = ClassifyConfig(
        run=RunOptions(name=name, folder=folder),
        corpus=learnt.corpus.folder,
        candidates=candidates,
        rc=adapter or learnt.adapter,
        decode=DecodeOptions(**decode),
    )
    inference = ClassifyInference(config)
    inference.finish(iter(inference.rows(range(3))))
    found = "scores-of-all.json" if decode["mode"] == "score" else "predictions.json"
    predictions = read_predictions(folder / name / found)
    return {(each.title, each.head, each.tail, each.relation): each.score for each in predictions}


@pytest.mark.parametrize(("mode", "tolerance"), [("free", 0.0), ("constrained", 1e-4), ("score", 3e-3)])
def test_results_are_those_of_hf(
    learnt_wide: Learnt, tmp_path: Path, shared_engine: VllmEngine, mode: str, tolerance: float
) -> None:
    found, expected = (classify(learnt_wide, tmp_path, mode=mode, backend=name) for name in ("vllm", "hf"))
    assert len(found) >= 3
    if mode == "free":
        assert found == expected
    else:
        assert found == pytest.approx(expected, abs=tolerance)


def test_likelihoods_are_those_of_hf(learnt_wide: Learnt, tmp_path: Path, shared_engine: VllmEngine) -> None:
    """With the weights of the engine's adapter, which was not trained for these questions."""
    adapter = tmp_path / "adapter"
    shutil.copytree(learnt_wide.adapter, adapter)
    metadata = json.loads((adapter / "lmrc.json").read_text())
    metadata["prompt"]["kind"] = "likelihood"
    (adapter / "lmrc.json").write_text(json.dumps(metadata))
    tiny.candidates(tmp_path / "candidates", learnt_wide.corpus)
    found, expected = (
        classify(learnt_wide, tmp_path, adapter, tmp_path / "candidates", mode="score", backend=name)
        for name in ("vllm", "hf")
    )
    assert len(found) >= 5
    # Names of several tokens are improbable without training: compare logarithms.
    assert {key: math.log(score or 0) for key, score in found.items()} == pytest.approx(
        {key: math.log(score or 0) for key, score in expected.items()}, abs=1e-3
    )


def test_log_probabilities_are_those_of_transformers(learnt_wide: Learnt, engine: VllmEngine) -> None:
    """With the adapter, which vLLM keeps beside the base. The second time the prompt is in the prefix cache."""
    prompt = list(range(5, 105))
    model: Any = learnt_wide.task.model
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([prompt])).logits[0, -1].log_softmax(0)
    cached = engine.counts.cached_tokens
    for _ in range(2):
        (logs,) = engine.next_logs([NextTokens(prompt, range(200))])
        assert logs == pytest.approx(expected[:200].tolist(), abs=1e-4)
    assert engine.counts.cached_tokens > cached


def test_the_engine_runs_in_this_process(engine: VllmEngine) -> None:
    """So that no child can outlive a worker that is killed."""
    assert psutil.Process().children(recursive=True) == []
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
