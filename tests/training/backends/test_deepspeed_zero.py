from __future__ import annotations

import torch

from lmrc.config.schema import Training
from lmrc.training.backends.deepspeed_zero import DeepSpeedZeroBackend
from lmrc.training.distributed import ALONE
from tests.training.toy import ToyTask


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
