"""Check that failures leave reports: of this process alone, and of two ranks whose collectives block."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpu.check import Machine, require

from lmrc.config.schema import RcpConfig
from lmrc.launcher.run_stage import run_attempt
from lmrc.launcher.stages import Stage
from lmrc.runs.failures import Attempt, attempt_outcome
from lmrc.training.distributed import World

ROOT = Path(__file__).resolve().parents[2]


def failure_reports(machine: Machine) -> str:
    """Raise an error in a training, and run the tests with real ranks, on gloo and a stub that blocks like NCCL."""

    def fail(config: RcpConfig, world: World) -> dict[str, Any]:
        raise KeyError("relation")

    folder, attempt = machine.folder / "failed", Attempt("local-verify")
    folder.mkdir()
    config = RcpConfig.model_validate({"run": {"folder": folder.parent, "name": folder.name}})
    with contextlib.suppress(KeyError):
        run_attempt(Stage("rcp", RcpConfig, lambda given: None, train=fail), config, attempt)
    cause, expected = attempt_outcome(folder, attempt).cause, f"rank 0 on {socket.gethostname()}: KeyError: 'relation'"
    require(cause == expected, f"the report is {cause!r}, not {expected!r}")
    text = "an error of rank 0 leaves a report"
    if importlib.util.find_spec("pytest") is None:
        return f"{text}; two ranks not run: pytest is not installed"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/integration/test_failing_ranks.py",
    ]
    command += ["-k", "raise_key_error"] if machine.tiny else []
    # gloo, because NCCL refuses two ranks on one GPU.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    require(ended.returncode == 0, f"two ranks: {' '.join(ended.stdout.split())[-400:]}")
    return f"{text}; two ranks on gloo with collectives that block: as expected; NCCL itself untested"
