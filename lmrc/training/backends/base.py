"""The training-backend interface, and helpers shared by the torch and DeepSpeed backends."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from lmrc.common.errors import RunError
from lmrc.config.schema import Training
from lmrc.training.precision import autocast, resolve_precision
from lmrc.training.task import Batch, Task

# The float32 weight and the two Adam moments of a parameter.
StateKey = Literal["master", "exp_avg", "exp_avg_sq"]
STATE_KEYS: tuple[StateKey, ...] = ("master", "exp_avg", "exp_avg_sq")


class Backend(Protocol):
    """Forward, backward and optimizer step over all ranks, and access to the trained state by parameter name.

    State tensors are unsharded and float32, so they do not depend on the number of processes or on the ZeRO stage.

    Attributes:
        name: Name and version for the log.
    """

    name: str

    @property
    def model(self) -> nn.Module:
        """Return the model to call in evaluations."""

    def loss(self, batch: Batch) -> Tensor:
        """Return the task's sum of loss terms, computed in the configured precision."""

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of this rank's loss. They are summed, not averaged, over ranks before the step."""

    def step(self, scale: float) -> Tensor | float:
        """Clip the gradients and make an optimizer step, after the last micro-batch.

        Args:
            scale: Learning rates as a share of their peaks.

        Returns:
            The gradient norm before clipping; on the device, unless the backend has read it itself.
        """

    def get(self, name: str, key: StateKey, copy: bool = True) -> Tensor:
        """Return a state tensor of a trained parameter, unsharded. Collective; needs a step before.

        Args:
            copy: True: a float32 copy on the CPU. False: for ranks that only take part; the tensor is not to be used.
        """

    def weight(self, name: str, copy: bool = True) -> Tensor:
        """Return a trained parameter, unsharded. Collective. `copy` is as in `get`."""

    def put(self, name: str, key: StateKey, value: Tensor) -> None:
        """Set a state tensor that `get` returns. Collective; needs a step before, so that Adam's state exists.

        Raises:
            RunError: The value has another shape than the parameter.
        """

    def set_step(self, step: int) -> None:
        """Set Adam's step counter."""


def trained_parameters(task: Task) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained, by their name in the task's model."""
    return {name: parameter for name, parameter in task.model.named_parameters() if parameter.requires_grad}


def host_copy(value: Tensor) -> Tensor:
    """Return a float32 copy on the CPU, made in a single pass."""
    return value.detach().to("cpu", torch.float32, copy=True)


def check_shape(name: str, parameter: nn.Parameter, value: Tensor) -> None:
    """Check that a value has the shape of its parameter, because copying would broadcast it silently.

    Raises:
        RunError: The shapes differ.
    """
    shape = getattr(parameter, "ds_shape", parameter.shape)
    if value.shape != shape:
        # Not in the pre-flight: the checkpoint is read at the resume.
        raise RunError(
            f"the checkpoint is of another model ({name} is {list(value.shape)} there, and {list(shape)} here): use "
            "another --run name"
        )


class Objective(nn.Module):
    """The task's loss as a module, so that autocast and ZeRO-3's weight gathering cover the whole forward pass.

    Trained weights are float32. In bf16 only the forward pass runs in bfloat16, and frozen weights may be stored in it.
    """

    def __init__(self, task: Task, options: Training, device: torch.device) -> None:
        super().__init__()
        self.model = task.model
        self._task_loss = task.loss
        self._precision = resolve_precision(options.precision)
        self._device_type = device.type

    def forward(self, batch: Batch) -> Tensor:
        """Return the sum of the loss terms of a batch, a float32 scalar."""
        with autocast(self._precision, self._device_type):
            return self._task_loss(self.model, batch)


def make_optimizer(task: Task, options: Training) -> torch.optim.AdamW:
    """Return AdamW over the task's parameter groups. Each group keeps its peak learning rate under "peak"."""
    groups = [{**group, "peak": group["lr"]} for group in task.parameter_groups()]
    return torch.optim.AdamW(groups, eps=options.adam_epsilon, weight_decay=options.weight_decay, fused=True)


def scale_rates(optimizer: torch.optim.Optimizer, scale: float) -> None:
    """Set every group's learning rate to `scale` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * scale
