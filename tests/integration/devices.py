"""Several GPUs where there are none: tensors are on the CPU, and say and keep to the device they were put on.

What PyTorch would refuse, an operation on tensors of two devices, is refused here too; all numbers are real.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import accelerate.hooks  # type: ignore[import-untyped]
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

CPU = torch.device("cpu")


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))


def _place(tensor: Tensor) -> torch.device:
    return getattr(tensor, "place", CPU)


def put(tensor: Tensor, device: torch.device) -> Tensor:
    """Say that it is there."""
    tensor.place = device  # type: ignore[attr-defined]
    return tensor


class Devices(TorchFunctionMode):
    """While it is entered."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:
            return _place(args[0])
        if func is Tensor.to:
            asked = [kwargs.pop("device", None), *args[1:]]
            targets = [each for each in asked if isinstance(each, (str, torch.device))]
            others = [each for each in args[1:] if each not in targets]
            moved = func(args[0], *others, **kwargs) if others or kwargs else args[0]
            return put(moved.clone(), torch.device(targets[0]) if targets else _place(args[0]))
        device = kwargs.pop("device", None)
        places = {_place(tensor) for tensor in _tensors([args, kwargs]) if tensor.dim()}
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            places -= {CPU} if _place(args[0]) != CPU else set()
        if len(places) > 1:
            raise RuntimeError(f"{func.__name__}: expected all tensors to be on the same device, found {places}")
        result = func(*args, **kwargs)
        place = torch.device(device) if device is not None else next(iter(places), CPU)
        if place != CPU:
            for tensor in _tensors(result):
                put(tensor, place)
        return result


def spread(model: nn.Module, devices: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The model with its parts on these devices, by accelerate's own hooks."""

    def set_module_tensor_to_device(module: nn.Module, name: str, device: str, **_: Any) -> None:
        *path, leaf = name.split(".")
        owner = module.get_submodule(".".join(path))
        put((owner._parameters.get(leaf) if leaf in owner._parameters else owner._buffers[leaf]), torch.device(device))  # type: ignore[arg-type]

    monkeypatch.setattr(accelerate.hooks, "set_module_tensor_to_device", set_module_tensor_to_device)
    accelerate.dispatch_model(model, dict(devices), main_device="cuda:0")
    return model
