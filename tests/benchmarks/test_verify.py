"""The checks of benchmarks/gpu on the CPU, and what they print if something is wrong."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT

NAMES = [
    "environment",
    "cudnn-plans",
    "rcp-correctness",
    "rcp-speed",
    "rc-packing",
    "rc-training",
    "decoding",
    "determinism",
    "resume",
    "signals",
    "failure-reports",
    "deepspeed-stages",
    "adam-on-device",
    "visible-gpus",
    "several-gpus",
]
SCRIPT = ROOT / "benchmarks" / "gpu" / "verify.py"


@pytest.fixture
def verify(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the module. It sets variables, which end with the test."""
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    for name in ("CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    from gpu import verify as module

    return module


def machine(folder: Path) -> Any:
    from gpu.check import Machine

    return Machine(torch.device("cpu"), True, folder)


def test_a_tiny_run_has_a_line_per_check_and_no_failure(tmp_path: Path) -> None:
    words = [sys.executable, str(SCRIPT), "--tiny", "--json", str(tmp_path / "results.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=240)
    *lines, last = ended.stdout.splitlines()
    outcomes = {line.split(": ")[0]: line.split(": ")[1].split()[0] for line in lines}
    assert outcomes == {**dict.fromkeys(NAMES, "ok"), "several-gpus": "skipped"}, ended.stdout
    assert all(len(line.split(" ", 2)[2]) > 10 for line in lines)
    assert last == "14 ok, 0 FAIL, 1 skipped"
    assert ended.returncode == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert [f"{row['name']}: {row['outcome']} {row['value']}" for row in results] == lines


def test_a_failing_check_is_a_line_and_status_1(verify: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from gpu.check import CheckFailed, CheckSkipped

    def act(error: BaseException | None) -> Callable[[Any], str]:
        def run(machine: Any) -> str:
            if error is not None:
                raise error
            return "3 ms"

        return run

    checks = {
        "good": verify.Check(act(None), 5),
        "wrong": verify.Check(act(CheckFailed("off by 2")), 5),
        "absent": verify.Check(act(CheckSkipped("no GPU")), 5),
        "broken": verify.Check(act(RuntimeError("CUDA error:\n  illegal address")), 5),
        "last": verify.Check(act(None), 5),
    }
    assert verify.main(["--tiny"], checks) == 1
    assert capsys.readouterr().out.splitlines() == [
        "good: ok 3 ms",
        "wrong: FAIL off by 2",
        "absent: skipped no GPU",
        "broken: FAIL RuntimeError: CUDA error: illegal address",
        "last: ok 3 ms",
        "2 ok, 2 FAIL, 1 skipped",
    ]
    assert verify.main(["--tiny", "--only", "good", "absent"], checks) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 ok, 0 FAIL, 1 skipped"


def test_a_check_that_takes_too_long_fails(verify: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def hang(machine: Any) -> str:
        # Handlers in a check must not catch the limit.
        while True:
            with contextlib.suppress(Exception):
                time.sleep(10)

    assert verify.main(["--tiny"], {"hang": verify.Check(hang, 0.2)}) == 1
    assert capsys.readouterr().out.startswith("hang: FAIL not done in 0.2 s\n")


def test_the_limits_add_up_to_ten_minutes(verify: Any) -> None:
    checks = verify.all_checks()
    assert list(checks) == NAMES
    assert sum(check.limit for check in checks.values()) <= 600


def test_wrong_arguments_say_what_to_type(verify: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        verify.main(["--tiny", "--only", "rcp"])
    assert ended.value.code == 2
    assert "no check is named rcp: choose from environment, " in capsys.readouterr().err
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            verify.main([])
        assert "there is no GPU: give --tiny" in capsys.readouterr().err


def test_cudnn_that_is_on_is_found(verify: Any, tmp_path: Path) -> None:
    from gpu import attention
    from gpu.check import CheckFailed

    torch.backends.cuda.enable_cudnn_sdp(True)
    try:
        with pytest.raises(CheckFailed, match="leaves cuDNN's attention on"):
            attention.cudnn_plans(machine(tmp_path))
    finally:
        torch.backends.cuda.enable_cudnn_sdp(False)


def test_packed_queries_that_see_wrong_values_are_found(
    verify: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpu import attention
    from gpu.check import CheckFailed

    from lmrc.kernels import varlen_attention

    def wrong(query: Any, key: Any, value: Any, *more: Any) -> torch.Tensor:
        return right(query, key, value.roll(1, 0), *more)

    right = varlen_attention._attention_per_sequence
    monkeypatch.setattr(varlen_attention, "_attention_per_sequence", wrong)
    with pytest.raises(CheckFailed, match=r"4 key heads, 4 queries, fp32: off by .* more than 0.0001"):
        attention.rc_packing(machine(tmp_path))


def test_logits_that_are_wrong_in_one_precision_are_found(
    verify: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpu import rcp
    from gpu.check import CheckFailed

    from lmrc.rcp.model import model

    def wrong(hidden: torch.Tensor, *more: Any) -> torch.Tensor:
        pooled = right(hidden, *more)
        return pooled if hidden.dtype == torch.float64 else pooled * 1.01

    right = model.pool_entities
    monkeypatch.setattr(model, "pool_entities", wrong)
    with pytest.raises(CheckFailed, match="one window, fp32: off by"):
        rcp.rcp_correctness(machine(tmp_path))


def test_answers_that_differ_are_found(verify: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu import decoding
    from gpu.check import CheckFailed

    from lmrc.rc.decoding import constrained

    def least_probable(logits: torch.Tensor, allowed: Any) -> torch.Tensor:
        return most_probable(-logits, allowed)

    most_probable = constrained.most_probable
    monkeypatch.setattr(constrained, "most_probable", least_probable)
    with pytest.raises(CheckFailed, match="differs from token-by-token decoding"):
        decoding.decoding(machine(tmp_path))


def test_a_resume_with_other_batches_is_found(verify: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu import resume
    from gpu.check import CheckFailed

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    rows = [{"step": step, "examples": [step, 1], "loss": 2.0} for step in range(1, resume.STEPS + 1)]

    def write(name: str, rows: list[dict[str, Any]]) -> Path:
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    reference = write("b", rows)
    assert resume._compare(write("a", rows), reference) == 0.0
    for wrong, message in (
        ([*rows[:-1], {**rows[-1], "examples": [1, 2]}], "other steps or examples"),
        ([*rows[:-1], {**rows[-1], "loss": 2.01}], "off by 5.0e-03"),
        (rows[:-1], "other steps or examples"),
    ):
        with pytest.raises(CheckFailed, match=message):
            resume._compare(write("a", wrong), reference)


def pretended_gpu(folder: Path, peak: int = 1, kernel: str = "flash_fwd_kernel") -> Any:
    """Return a machine whose checks take the branches of a GPU, with tensors on the CPU."""
    from gpu.check import Machine

    class PretendedGpu(Machine):
        @property
        def has_gpu(self) -> bool:
            return True

        def peak_bytes(self, function: Callable[[], object]) -> int:
            function()
            return peak

        def no_waits(self) -> Any:
            return contextlib.nullcontext()

        def profile(self, function: Callable[[], object]) -> list[tuple[str, float]]:
            function()
            return [(kernel, 5.0)]

        def _wait(self) -> None:
            """Do nothing."""

    return PretendedGpu(torch.device("cpu"), True, folder)


def test_branches_of_a_gpu(verify: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu import attention, decoding, environment, rc, rcp

    for module in (attention, decoding):
        monkeypatch.setattr(module, "sdpa_kernel", lambda kernels: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    machine = pretended_gpu(tmp_path)
    assert "NVIDIA H200, capability 9.0, CUDA " in environment.environment(machine)
    monkeypatch.setattr(attention, "_time_calls", lambda machine, calls, seconds=0.0: (0.5 if seconds else 0.1, 3))
    assert "(5 x), 3 calls took" in attention.cudnn_plans(machine)
    assert "flash attention for 1 and 4 queries" in attention.rc_packing(machine)
    assert "GiB, at most" in rcp.rcp_speed(machine)
    assert rc.rc_training(machine).count("estimated") == 4
    assert " with cuDNN" in decoding.decoding(machine)


def test_gpu_figures_that_are_wrong_are_found(verify: Any, tmp_path: Path) -> None:
    from gpu import attention, rc, rcp
    from gpu.check import CheckFailed

    for kernel, message in (
        ("fmha_cutlassF_bf16", "no flash attention, but .'fmha"),
        ("softmax", "no flash attention"),
    ):
        with pytest.raises(CheckFailed, match=f"4 key heads, 4 queries: {message}"):
            attention.rc_packing(pretended_gpu(tmp_path, kernel=kernel))
    for check in (rcp.rcp_speed, rc.rc_training):
        with pytest.raises(CheckFailed, match="estimated"):
            check(pretended_gpu(tmp_path, peak=2**50))
