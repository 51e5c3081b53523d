from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lmrc.config.schema import Training
from lmrc.training.backends.deepspeed_zero import DeepSpeedZeroBackend, _bit_sums
from lmrc.training.distributed import ALONE, World
from tests.training.processes import run_in_processes
from tests.training.toy import ToyTask


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32])
def test_bit_sums_notice_the_smallest_change(dtype: torch.dtype) -> None:
    weights = torch.arange(1, 101).reshape(10, 10).to(dtype)
    changed = weights.clone()
    changed[3, 4] = 36 if dtype == torch.uint8 else torch.nextafter(changed[3, 4], torch.tensor(0, dtype=dtype))
    assert _bit_sums([weights, weights]) == _bit_sums([weights, weights.clone()])
    assert _bit_sums([weights, weights]) != _bit_sums([weights, changed])
    assert _bit_sums([]) == []


def make_engines(world: World, out: Path) -> None:
    """Save how many frozen weights DeepSpeed broadcasts, and their values, if ranks read the same and if they do not.

    Also check that ZeRO-3 keeps the dtypes of the weights.
    """
    from deepspeed import comm

    sent: list[Tensor] = []
    original = comm.broadcast

    def broadcast(tensor: Tensor, *arguments: object, **options: object) -> object:
        sent.append(tensor)
        return original(tensor, *arguments, **options)

    comm.broadcast = broadcast
    results = {}
    for stage in (0, 2):
        for case in ("equal", "other"):
            task = ToyTask()
            frozen = task.model.frozen.weight
            if case == "other" and world.rank == 1:
                frozen.data.zero_()
            sent.clear()
            options = Training(precision="fp32", zero_stage=stage, backend="deepspeed")
            backend = DeepSpeedZeroBackend(task, options, world, micro_batches=1)
            count = sum(tensor.numel() in (4 * 9, 4 * 3) for tensor in sent)  # bytes of the frozen weight and bias
            results[stage, case] = count, backend.weight("second.bias"), frozen.detach().clone()
            assert not hasattr(frozen, "ds_optim_param")
    task = ToyTask(frozen=torch.bfloat16)
    DeepSpeedZeroBackend(task, Training(precision="bf16", zero_stage=3, backend="deepspeed"), world, micro_batches=1)
    for parameter in task.model.parameters():
        expected = torch.float32 if parameter.requires_grad else torch.bfloat16
        assert parameter.dtype == parameter.ds_tensor.dtype == expected
    torch.save(results, out / f"{world.rank}.pt")


@pytest.mark.slow
def test_frozen_weights_are_only_sent_if_ranks_differ(tmp_path: Path) -> None:
    run_in_processes(2, make_engines, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for stage in (0, 2):
        # The bias of the second layer, which is trained, has 3 elements too.
        assert first[stage, "equal"][0] == second[stage, "equal"][0] == 1
        assert first[stage, "other"][0] == second[stage, "other"][0] == 3
        for case in ("equal", "other"):
            assert torch.equal(first[stage, case][2], second[stage, case][2]), (stage, case)
            assert first[stage, case][2].any()


def test_operators_are_not_probed() -> None:
    """DeepSpeed would run the compiler for each of its operators."""
    code = """
import deepspeed.ops, torch
deepspeed.ops._probe_compatible_ops = None
from lmrc.training.backends.deepspeed_zero import _init_deepspeed
from lmrc.training.distributed import ALONE
_init_deepspeed(ALONE)
print(deepspeed.comm.is_initialized(), vars(deepspeed.ops)["__compatible_ops__"]["deepspeed_shm_comm"])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split()[-2:] == ["True", "False"]


def test_clipping_at_stage_0_equals_that_of_deepspeed() -> None:
    from deepspeed.runtime.utils import clip_grad_norm_

    task = ToyTask()
    backend = DeepSpeedZeroBackend(task, Training(precision="fp32", gradient_clip=0.05), ALONE, 1)
    parameters = list(backend._parameters.values())
    for seed, scale in enumerate((1e-3, 0.1, 1.0, 10.0)):
        generator = torch.Generator().manual_seed(seed)
        gradients = [scale * torch.randn(parameter.shape, generator=generator) for parameter in parameters]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        expected_norm = clip_grad_norm_(parameters, 0.05)
        expected = [parameter.grad for parameter in parameters]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        backend._engine.clip_fp32_gradients()
        assert torch.equal(backend._norm, expected_norm)
        for parameter, clipped in zip(parameters, expected, strict=True):
            assert parameter.grad is not None and clipped is not None
            assert torch.equal(parameter.grad, clipped)
