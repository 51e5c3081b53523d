"""The plain torch backend: used without DeepSpeed, and as the reference in tests of the ZeRO stages."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lmrc.config.schema import Training
from lmrc.training.backends.base import (
    Objective,
    StateKey,
    check_shape,
    host_copy,
    make_optimizer,
    scale_rates,
    trained_parameters,
)
from lmrc.training.distributed import World
from lmrc.training.task import Batch, Task


class TorchDdpBackend:
    """Data parallelism without sharding: gradients are summed over ranks."""

    name = "plain torch"

    def __init__(self, task: Task, options: Training, world: World) -> None:
        self._objective = Objective(task, options, world.device).to(world.device)
        self._parameters = trained_parameters(task)
        self._optimizer = make_optimizer(task, options)
        self._clip = options.gradient_clip
        self._world = world

    @property
    def model(self) -> nn.Module:
        return self._objective.model

    def loss(self, batch: Batch) -> Tensor:
        loss: Tensor = self._objective(batch)
        return loss

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, scale: float) -> Tensor:
        for parameter in self._parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if self._world.size > 1:
                dist.all_reduce(parameter.grad)
        norm: Tensor = torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._clip)
        scale_rates(self._optimizer, scale)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    def weight(self, name: str, copy: bool = True) -> Tensor:
        parameter = self._parameters[name]
        return host_copy(parameter) if copy else parameter

    def get(self, name: str, key: StateKey, copy: bool = True) -> Tensor:
        if key == "master":
            return self.weight(name, copy)
        value: Tensor = self._optimizer.state[self._parameters[name]][key]
        return host_copy(value) if copy else value

    def put(self, name: str, key: StateKey, value: Tensor) -> None:
        parameter = self._parameters[name]
        check_shape(name, parameter, value)
        target = parameter.data if key == "master" else self._optimizer.state[parameter][key]
        target.copy_(value)

    def set_step(self, step: int) -> None:
        for state in self._optimizer.state.values():
            state["step"].fill_(step)
