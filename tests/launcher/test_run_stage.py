from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lmrc.config.schema import ClassifyConfig
from lmrc.launcher import run_stage
from lmrc.launcher.stages import Stage
from lmrc.runs.failures import Attempt


@pytest.mark.parametrize(("backend", "joined"), [("hf", True), ("vllm", False), ("openai", False)])
def test_only_our_own_lm_sets_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, joined: bool
) -> None:
    """Joining selects a GPU and makes a CUDA context on it."""
    from lmrc.training import distributed

    calls: list[Any] = []

    def join(timeout: object, watchdog: object) -> distributed.World:
        calls.append(timeout)
        return distributed.ALONE

    monkeypatch.setattr(distributed, "init_process_group", join)
    monkeypatch.setattr(run_stage, "_infer", lambda *_: {"documents": 3})
    config = ClassifyConfig.model_validate(
        {"run": {"folder": tmp_path, "name": "x"}, "decode": {"backend": backend, "mode": "free"}}
    )
    stage = Stage("classify", ClassifyConfig, lambda _: None)
    assert run_stage.run_attempt(stage, config, Attempt("local-1")) == {"documents": 3}
    assert bool(calls) == joined
    without_lm = config.model_copy(update={"system": "encoder"})
    assert run_stage.run_attempt(stage, without_lm, Attempt("local-1")) == {"documents": 3}
    assert len(calls) == joined
