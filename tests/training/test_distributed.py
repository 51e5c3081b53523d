from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lmrc.training.distributed import say


def test_only_rank_0_prints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    say("one")
    monkeypatch.setenv("RANK", "0")
    say("two")
    monkeypatch.delenv("RANK")
    say("three")
    assert capsys.readouterr().out == "two\nthree\n"


def test_cudnn_attention_is_switched_off() -> None:
    code = (
        "import os, torch, lmrc.training.distributed; "
        "print(os.environ['TORCH_CUDNN_SDPA_DEPRIORITIZED'], torch.backends.cuda.cudnn_sdp_enabled())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TORCH_CUDNN_SDPA_DEPRIORITIZED"}
    for own, expected in (({}, "1 False"), ({"TORCH_CUDNN_SDPA_DEPRIORITIZED": "0"}, "0 False")):
        output = subprocess.run(
            [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True, env=environment | own
        ).stdout
        assert output.strip() == expected


@pytest.mark.parametrize(
    "module", ["lmrc.rcp.predict", "lmrc.rc.decoding.hf_backend", "lmrc.rc.alignment", "lmrc.rcp.task"]
)
def test_every_user_of_a_gpu_imports_this_module(module: str) -> None:
    code = f"import sys, {module}; sys.exit('lmrc.training.distributed' not in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
