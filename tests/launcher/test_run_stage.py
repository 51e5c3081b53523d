from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from lmrc.config.schema import ClassifyConfig, ProposeConfig, RcpConfig
from lmrc.launcher import run_stage
from lmrc.launcher.slurm import node_check
from lmrc.launcher.stages import Stage
from lmrc.runs.failures import BROKEN_NODE_STATUS, Attempt, BrokenNode, attempt_outcome
from tests.conftest import ROOT


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
    ("job", "wanted", "local_rank", "checks"),
    [
        ("4711", True, "0", ["host", "gpus", "join"]),
        ("4711", True, "3", ["gpus", "join"]),
        ("4711", False, "0", ["join"]),
        ("local-1", True, "0", ["join"]),
    ],
)
def test_node_is_checked_before_the_rendezvous(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str, wanted: bool, local_rank: str, checks: list[str]
) -> None:
    from lmrc.training import distributed

    calls: list[str] = []

    def join(*_: object) -> distributed.World:
        calls.append("join")
        return distributed.ALONE

    monkeypatch.setenv("LOCAL_RANK", local_rank)
    monkeypatch.setattr(distributed, "init_process_group", join)
    monkeypatch.setattr(node_check, "check_host", lambda _: calls.append("host"))
    monkeypatch.setattr(node_check, "check_gpus", lambda all_visible: calls.append("gpus"))
    monkeypatch.setattr(run_stage, "_train", lambda *_: {"steps": 3})
    config = RcpConfig.model_validate(
        {"run": {"folder": tmp_path, "name": "x"}, "cluster": {"node_check": wanted}, "train": {"max_steps": 1}}
    )
    run_stage.run_attempt(Stage("rcp", RcpConfig, lambda _: None), config, Attempt(job))
    assert calls == checks


def test_broken_node_ends_the_process_with_a_status_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise BrokenNode("no memory")

    def leave(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(node_check, "check_host", fail)
    monkeypatch.setattr("os._exit", leave)
    config = RcpConfig.model_validate({"run": {"folder": tmp_path, "name": "x"}})
    with pytest.raises(SystemExit) as end:
        run_stage.run_attempt(Stage("rcp", RcpConfig, lambda _: None), config, Attempt("4711"))
    assert end.value.code == BROKEN_NODE_STATUS
    outcome = attempt_outcome(tmp_path / "x", Attempt("4711"))
    assert outcome.broken_nodes and "node check: no memory" in outcome.cause


def test_task_of_eval_sh_reports_a_bad_node_under_its_own_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker is a local process, but the script that started it requeues the task."""

    def fail(_: Path) -> None:
        raise BrokenNode("no memory")

    def leave(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(node_check, "check_host", fail)
    monkeypatch.setattr("os._exit", leave)
    monkeypatch.setenv("LMRC_CHECK_NODE", "1")
    for name, value in {"ARRAY_JOB_ID": "7", "ARRAY_TASK_ID": "3", "RESTART_COUNT": "2"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    config = ProposeConfig.model_validate({"run": {"folder": tmp_path, "name": "x"}, "rcp": tmp_path})
    stage = Stage("propose", ProposeConfig, lambda _: None)
    with pytest.raises(SystemExit) as end:
        run_stage.run_attempt(stage, config, Attempt("local-1"))
    assert end.value.code == BROKEN_NODE_STATUS
    outcome = attempt_outcome(tmp_path / "x", Attempt("7_3", 2))
    assert outcome.broken_nodes and "node check: no memory" in outcome.cause


def test_eval_sh_knows_the_status_of_a_bad_node() -> None:
    script = (ROOT / "slurm" / "eval.sh").read_text()
    assert f"broken_node={BROKEN_NODE_STATUS}\n" in script and f"export {run_stage.CHECK_NODE}=1" in script


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
