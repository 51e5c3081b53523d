"""RMSNorm in one kernel, for inference. transformers computes each in eight, and an LM has two per layer."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lmrc.rc.model.packed_attention import is_spread


def fuse_norms(model: PreTrainedModel) -> None:
    """Replace the RMSNorms of an LM by torch's, with the same weights.

    In bf16 torch rounds once, after the multiplication by the weight, and transformers twice. An LM on several devices
    is left as it is, because the modules there move their inputs.
    """
    if is_spread(model):
        return
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if _is_rms_norm(type(child)):  # type: ignore[arg-type]
                fused = nn.RMSNorm(child.weight.shape, _epsilon(child), device="meta")
                fused.weight = child.weight
                setattr(parent, name, fused.train(child.training))


def _epsilon(norm: nn.Module) -> float:
    return float(norm.variance_epsilon)  # type: ignore[arg-type]


@cache
def _is_rms_norm(kind: type[nn.Module]) -> bool:
    """Return whether modules of a class compute what `torch.nn.RMSNorm` does. Some classes add 1 to the weight."""
    if not kind.__name__.endswith("RMSNorm"):
        return False
    values = torch.tensor([[3.0, -1.0, 0.5, 2.0], [0.1, 0.0, -0.2, 0.1]])
    with torch.device("cpu"), torch.no_grad():
        try:
            norm = kind(4, eps=0.01)
            norm.load_state_dict({"weight": values[0]})
            epsilon = _epsilon(norm)
        except (TypeError, AttributeError, RuntimeError):
            return False
        actual: Tensor = norm(values)
        expected = torch.nn.functional.rms_norm(values, (4,), values[0], epsilon)
        return epsilon == 0.01 and torch.allclose(actual, expected, atol=1e-6)
