"""Dropout that draws four random numbers at a time on a CPU.

torch.nn.Dropout takes about a twentieth of a training step on a CPU (MiniLM). There it takes twice as long as this
class and keeps a mask in the input's data type for the backward pass (4 bytes per element in fp32, instead of 1). On
other devices this class calls torch's kernel.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# A 64-bit random number is split into four of 16 bits, so probabilities are multiples of 1 / 65536.
LEVELS = 2**16


class Dropout(nn.Dropout):
    """Replacement for nn.Dropout. It uses torch's default generator, so `torch.manual_seed` applies."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the input with a share `p` of its elements set to 0 and the others scaled by 1 / (1 - p)."""
        dropped = round(self.p * LEVELS)
        if not self.training or not dropped or dropped == LEVELS or input.device.type != "cpu":
            return F.dropout(input, self.p, self.training)
        random = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        levels = random.view(torch.int16)[: input.numel()].view(input.shape)
        output: Tensor = _MaskAndScale.apply(  # type: ignore[no-untyped-call]
            input, levels >= dropped - LEVELS // 2, LEVELS / (LEVELS - dropped)
        )
        return output


class _MaskAndScale(torch.autograd.Function):
    """input * mask * scale. By itself, autograd would save the mask in the input's data type."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return input * mask.to(input.dtype).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return gradients[0] * mask.to(gradients[0].dtype).mul_(ctx.scale), None, None


def replace_dropout(module: nn.Module) -> None:
    """Replace every nn.Dropout inside `module` with `Dropout`."""
    for parent in module.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p))
