from __future__ import annotations

import time
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

    def join(timeout: object, watchdog: object, began: float) -> distributed.World:
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


@pytest.mark.parametrize(
    ("decode", "visible", "gpus"),
    [
        ({"backend": "openai", "mode": "free"}, None, 0),
        ({"backend": "vllm", "gpus_per_worker": 2}, None, 2),
        # A job holds its GPUs even if the server has the LM.
        ({"backend": "openai", "mode": "free"}, "4,5", 2),
    ],
)
def test_gpus_of_a_worker_that_must_not_start_cuda(
    monkeypatch: pytest.MonkeyPatch, decode: dict[str, Any], visible: str | None, gpus: int
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    config = ClassifyConfig.model_validate({"decode": decode})
    use = run_stage._worker_meter(config, time.monotonic(), None).use()
    assert (use.gpus, use.is_worker, use.processes) == (gpus, True, 1)
