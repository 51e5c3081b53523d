"""Dropout whose random numbers are drawn four at a time on a CPU, where torch draws one after the other.

There torch's own takes a twentieth of a training step (its profiler, MiniLM); on other devices it is torch's own.
Either keeps a byte an element for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# A 64-bit random number is four of 16 bits: probabilities are multiples of 1 / 65536.
LEVELS = 2**16


class Dropout(nn.Dropout):
    """As nn.Dropout, from torch's default generator: `torch.manual_seed` decides."""

    def forward(self, input: Tensor) -> Tensor:
        """input: any shape, floating point. Returns it with a share of `p` set to 0 and the others scaled by 1 / (1 -
        p)."""
        dropped = round(self.p * LEVELS)
        if not self.training or not dropped or dropped == LEVELS or input.device.type != "cpu":
            return F.dropout(input, self.p, self.training)
        numbers = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        levels = numbers.view(torch.int16)[: input.numel()].view(input.shape)
        output: Tensor = _Drop.apply(input, levels >= dropped - LEVELS // 2, LEVELS / (LEVELS - dropped))  # type: ignore[no-untyped-call]
        return output


class _Drop(torch.autograd.Function):
    """input * keep * scale, where autograd by itself would hold on to `keep` as numbers of the input's type."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return input * keep.to(input.dtype).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return gradients[0] * keep.to(gradients[0].dtype).mul_(ctx.scale), None, None


def replace_dropout(module: nn.Module) -> None:
    """Put `Dropout` in place of every nn.Dropout below `module`."""
    for parent in module.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p))
