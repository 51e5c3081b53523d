"""Recomputation of cheap encoder tensors in the backward pass, instead of storing them.

The largest example is the output of an activation function: the next layer saves it for its gradient, but it follows
from the input, which is saved anyway. Gradients are bit-identical.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers.activations import GELUActivation


class Recipe(NamedTuple):
    """Function, inputs and output shape that autograd saves instead of a tensor."""

    function: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    shape: torch.Size


class _Recomputable(NamedTuple):
    """A tensor and its recipe. Holding the tensor keeps its memory address from being reused."""

    output: Tensor
    recipe: Recipe


# The last recomputable tensor; None outside `recompute_in_backward`.
_last: ContextVar[list[_Recomputable] | None] = ContextVar("last_recomputable", default=None)


def recomputable(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Call `function`, and let the next layer save a recipe instead of the output.

    Args:
        function: a deterministic function without weights.
        inputs: its inputs, which autograd saves in any case.
    """
    output = function(*inputs)
    last = _last.get()
    if last is not None:
        recipe = Recipe(function, tuple(tensor.detach() for tensor in inputs), output.shape)
        last[:] = [_Recomputable(output.detach(), recipe)]
    return output


class Activation(nn.Module):
    """Activation function with a recomputable output."""

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.function = function

    def forward(self, input: Tensor) -> Tensor:
        """Apply the function elementwise."""
        return recomputable(self.function, input)


def replace_activations(module: nn.Module) -> None:
    """Wrap every GELU inside `module` in `Activation`."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, (GELUActivation, nn.GELU)) and not isinstance(parent, Activation):
                setattr(parent, name, Activation(child))


@contextmanager
def recompute_in_backward() -> Iterator[None]:
    """While active, let autograd save a recipe instead of the output of the last `recomputable` call."""
    last: list[_Recomputable] = []

    def pack(tensor: Tensor) -> Tensor | Recipe:
        for output, recipe in last:
            # A layer may save a view, such as [tokens, d] of [1, tokens, d].
            if tensor.data_ptr() == output.data_ptr() and tensor.numel() == output.numel() and tensor.is_contiguous():
                return recipe._replace(shape=tensor.shape)
        return tensor

    def unpack(saved: Tensor | Recipe) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        return saved.function(*saved.inputs).view(saved.shape)

    token = _last.set(last)
    try:
        with saved_tensors_hooks(pack, unpack):
            yield
    finally:
        _last.reset(token)
