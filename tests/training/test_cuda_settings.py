"""Settings of CUDA, and trainings under deterministic algorithms."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from lmrc.config.schema import RcConfig, RcpConfig
from lmrc.corpus.corpus import write_corpus
from lmrc.corpus.synthetic import generator as synthetic
from lmrc.launcher.run_stage import run_attempt
from lmrc.launcher.stages import RC, RCP
from lmrc.runs.failures import Attempt
from lmrc.runs.run_folder import RunFolder
from lmrc.training.cuda_settings import algorithms, use_expandable_segments

# Operations that raise on CUDA tensors under deterministic algorithms (torch.use_deterministic_algorithms).
REFUSED = {
    *("put", "put_", "histc", "bincount", "kthvalue", "median", "nanmedian", "cumsum", "cumprod", "index_reduce"),
    *("scatter_reduce", "nll_loss2d_forward", "nll_loss2d_backward", "_ctc_loss_backward"),
    *("grid_sampler_2d_backward", "_embedding_bag", "max_unpool2d", "adaptive_avg_pool2d_backward"),
}
VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "CUBLAS_WORKSPACE_CONFIG")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # restored after the test, also if the code sets it
        monkeypatch.delenv(name)


def test_the_allocator_keeps_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    use_expandable_segments()
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")
    use_expandable_segments()
    assert os.environ["PYTORCH_ALLOC_CONF"] == "max_split_size_mb:64"
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    use_expandable_segments()
    assert "PYTORCH_ALLOC_CONF" not in os.environ


def test_deterministic_algorithms_end_with_the_training() -> None:
    with algorithms(False):
        assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    with algorithms(True):
        assert (
            torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
        )
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()


class Operations(TorchDispatchMode):
    """Counts operations on floating-point tensors, and checks the mode in which they run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.modes: set[bool] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.modes.add(torch.are_deterministic_algorithms_enabled())
        if any(isinstance(value, torch.Tensor) and value.is_floating_point() for value in args):
            self.found[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["rcp", "rc"])
def test_a_training_has_no_operation_without_a_deterministic_algorithm(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU the option changes nothing, and no operation is among those that would raise on a GPU."""
    monkeypatch.setenv("LMRC_CACHE", str(tmp_path / "cache"))
    write_corpus(synthetic.generate(8, 1), tmp_path / "train", synthetic.RELATIONS, "train", "0" * 64)
    weights = []
    for deterministic in (False, True):
        common: dict[str, Any] = {
            "run": {"name": str(deterministic), "folder": tmp_path},
            "data": {"train": tmp_path / "train", "dev": tmp_path / "train"},
        }
        train = {"max_steps": 2, "eval_every": 0, "warmup": 0, "deterministic": deterministic, "backend": "torch"}
        config: RcpConfig | RcConfig
        if kind == "rcp":
            model: dict[str, Any] = {"encoder": "embedded:tiny-encoder", "max_length": 512}
            config = RcpConfig.model_validate({**common, "model": model, "train": {**train, "relation_weight": 1.0}})
        else:
            model = {"base": "embedded:tiny-llm"}
            prompt = {"max_length": 2048}
            train["micro_batch_size"] = 2
            config = RcConfig.model_validate({**common, "model": model, "prompt": prompt, "train": train})
        RunFolder.of(config.run).path.mkdir(parents=True)
        with Operations() as operations:
            assert run_attempt(RCP if kind == "rcp" else RC, config, Attempt("local-1")) is not None
        assert operations.modes == {deterministic}
        assert operations.found["addmm"] or operations.found["mm"]
        assert not REFUSED & operations.found.keys()
        exported = next((tmp_path / str(deterministic) / "best").glob("*model.safetensors"))
        weights.append((load_file(exported), (tmp_path / str(deterministic) / "metrics.jsonl").read_bytes()))
    assert weights[0][1] == weights[1][1]
    for name, value in weights[0][0].items():
        assert torch.equal(value, weights[1][0][name])
