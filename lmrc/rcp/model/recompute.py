"""Tensors of the encoder that the backward pass computes again: they follow cheaply from others that it keeps.

The output of an activation function is the widest tensor that the layer after it keeps for its gradient, and follows
from the input. The gradients are the same to the bit.
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
    """In place of a kept tensor: what gives it, from what, and its shape."""

    function: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    shape: torch.Size


class _Noted(NamedTuple):
    """A tensor, held so that no other gets its memory while it is noted, and how to compute it again."""

    output: Tensor
    recipe: Recipe


# The last tensor noted; None where no `recompute_in_backward` is open.
_noted: ContextVar[list[_Noted] | None] = ContextVar("noted", default=None)


def note(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """`function` of the inputs, which the next layer's graph need not keep: that keeps the inputs in any case."""
    output = function(*inputs)
    noted = _noted.get()
    if noted is not None:
        recipe = Recipe(function, tuple(part.detach() for part in inputs), output.shape)
        noted[:] = [_Noted(output.detach(), recipe)]
    return output


class Activation(nn.Module):
    """An activation function without weights whose output is noted."""

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.function = function

    def forward(self, input: Tensor) -> Tensor:
        """input: any shape. Returns the function of it, in the same shape."""
        return note(self.function, input)


def replace_activations(module: nn.Module) -> None:
    """Put `Activation` around every GELU below `module`."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, (GELUActivation, nn.GELU)) and not isinstance(parent, Activation):
                setattr(parent, name, Activation(child))


@contextmanager
def recompute_in_backward() -> Iterator[None]:
    """While open, the graph of what runs keeps no noted tensor, of which layers take the last one only."""
    noted: list[_Noted] = []

    def pack(kept: Tensor) -> Tensor | Recipe:
        for output, recipe in noted:
            # A layer keeps a view, such as [tokens, d] of [1, tokens, d].
            if kept.data_ptr() == output.data_ptr() and kept.numel() == output.numel() and kept.is_contiguous():
                return recipe._replace(shape=kept.shape)
        return kept

    def unpack(kept: Tensor | Recipe) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        return kept.function(*kept.inputs).view(kept.shape)

    token = _noted.set(noted)
    try:
        with saved_tensors_hooks(pack, unpack):
            yield
    finally:
        _noted.reset(token)
