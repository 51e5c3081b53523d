"""Low-precision copies of the encoder's linear weights, made in one call per forward pass.

Autocast casts each weight, each bias and each of their gradients in a call of its own: a third of the calls of a step.
Here one call casts all of them, and query, key and value are one product. The results are those of autocast up to
rounding: the gradient of the input is rounded once, and not once for query, key and value each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

# Elements between the beginnings of two copies are a multiple of this, because fast products need aligned matrices.
_ALIGNMENT = 64


class LinearCasts:
    """Casts the weights of an encoder's linear layers while `active`. The layers keep their names and parameters."""

    def __init__(self, encoder: PreTrainedModel) -> None:
        """Let the encoder's linear layers use the copies."""
        self._encoder = encoder
        grouped = [
            [module.query, module.key, module.value]
            for module in encoder.modules()
            if all(_is_linear(getattr(module, name, None)) for name in ("query", "key", "value"))
        ]
        members = {id(layer) for layers in grouped for layer in layers}
        single = [[module] for module in encoder.modules() if _is_linear(module) and id(module) not in members]
        self._groups = [_Group(layers) for layers in [*grouped, *single]]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Use copies in autocast's data type. Without autocast, or if layers are recomputed or sharded, use none."""
        parameters = [p for group in self._groups for stack in group.stacks() for p in stack]
        device = parameters[0].device.type if parameters else "cpu"
        # ZeRO-3 gathers the weights of a layer just before its forward pass.
        is_sharded = any(hasattr(parameter, "ds_id") for parameter in parameters)
        is_recomputed = self._encoder.training and any(
            getattr(module, "gradient_checkpointing", False) for module in self._encoder.modules()
        )
        if not parameters or is_sharded or is_recomputed or not _is_autocast(device):
            yield
            return
        counts = tuple(len(stack) for group in self._groups for stack in group.stacks())
        copies = iter(_Cast.apply(torch.get_autocast_dtype(device), counts, *parameters))  # type: ignore[no-untyped-call]
        try:
            for group in self._groups:
                group.weight, group.bias = next(copies), next(copies)
            yield
        finally:
            for group in self._groups:
                group.weight = group.bias = None
                group.clear()


class _Group:
    """Linear layers with the same input, which are one product.

    Attributes:
        weight: copy of the weights, [sum of outputs, inputs]; None if no copies are used.
        bias: copy of the biases, [sum of outputs].
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None
        self._layers = list(layers)
        self._sizes = [layer.out_features for layer in layers]
        self.clear()
        for index, layer in enumerate(layers):
            layer.__class__ = _SharedLinear
            layer._group, layer._index = self, index  # type: ignore[assignment]

    def stacks(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the weights and the biases."""
        return [layer.weight for layer in self._layers], [layer.bias for layer in self._layers]

    def clear(self) -> None:
        """Forget the last output."""
        self._input: Tensor | None = None
        self._outputs: dict[int, Tensor] = {}

    def output(self, index: int, input: Tensor) -> Tensor:
        """Return the output of a layer. The product is computed for the first of them."""
        assert self.weight is not None
        if self._input is not input or index not in self._outputs:
            outputs = F.linear(input, self.weight, self.bias)
            if len(self._sizes) == 1:
                return outputs
            self._input, self._outputs = input, dict(enumerate(torch.split(outputs, self._sizes, -1)))
        output = self._outputs.pop(index)
        if not self._outputs:
            self.clear()
        return output


class _SharedLinear(nn.Linear):
    """Linear layer of a `_Group`."""

    _group: _Group
    _index: int

    def forward(self, input: Tensor) -> Tensor:
        if self._group.weight is None:
            return super().forward(input)
        return self._group.output(self._index, input)


class _Cast(torch.autograd.Function):
    """Stack tensors and cast them, all in one call; in the backward pass, cast their gradients in one call."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, counts: Sequence[int], *parameters: Tensor) -> tuple[Tensor, ...]:
        """Return one stack, [sum of rows, ...], for each count of consecutive parameters."""
        ctx.set_materialize_grads(False)
        ctx.shapes = [parameter.shape for parameter in parameters]
        ctx.counts = counts
        stacks, rest = [], list(parameters)
        for count in counts:
            members, rest = rest[:count], rest[count:]
            stacks.append((sum(len(member) for member in members), *members[0].shape[1:]))
        copies = _allocate([torch.Size(shape) for shape in stacks], dtype, parameters[0].device)
        rows = iter(ctx.shapes)
        targets = [
            part
            for copy, count in zip(copies, counts, strict=True)
            for part in torch.split(copy, [next(rows)[0] for _ in range(count)])
        ]
        torch._foreach_copy_(targets, list(parameters))
        return tuple(copies)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        shapes = iter(ctx.shapes)
        parts: list[Tensor | None] = []
        for gradient, count in zip(gradients, ctx.counts, strict=True):
            rows = [next(shapes)[0] for _ in range(count)]
            parts += [None] * count if gradient is None else torch.split(gradient, rows)
        sources = [part for part in parts if part is not None]
        targets = _allocate([part.shape for part in sources], torch.float32, sources[0].device) if sources else []
        if sources:
            torch._foreach_copy_(targets, sources)
        results = iter(targets)
        return None, None, *(None if part is None else next(results) for part in parts)


def _allocate(shapes: Sequence[torch.Size], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Return tensors that share one allocation."""
    sizes = [-(-shape.numel() // _ALIGNMENT) * _ALIGNMENT for shape in shapes]
    parts = torch.split(torch.empty(sum(sizes), dtype=dtype, device=device), sizes)
    return [part[: shape.numel()].view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _is_linear(module: object) -> bool:
    return type(module) is nn.Linear and module.bias is not None and module.weight.dtype == torch.float32


def _is_autocast(device_type: str) -> bool:
    # Autocast knows no meta device.
    return device_type != "meta" and torch.is_autocast_enabled(device_type)
