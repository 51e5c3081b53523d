"""What the loop asks of whatever runs the steps, and what all that run them share."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from lmrc.common.errors import RunError
from lmrc.config.schema import Training
from lmrc.training.precision import autocast, resolve_precision
from lmrc.training.task import Batch, Task

StateKey = Literal["master", "exp_avg", "exp_avg_sq"]
STATE_KEYS: tuple[StateKey, ...] = ("master", "exp_avg", "exp_avg_sq")


class Backend(Protocol):
    """Forward, backward and step over all ranks, and the trained state by parameter name.

    The state is independent of the number of processes and of the ZeRO stage: whole float32 tensors.
    """

    name: str

    @property
    def model(self) -> nn.Module:
        """The task's model, to be called in evaluations."""

    def loss(self, batch: Batch) -> Tensor:
        """Forward pass in the configured precision: the task's sum of loss terms."""

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients of this rank's `loss`; gradients are *summed* over ranks before the step."""

    def step(self, scale: float) -> float:
        """After the last micro-batch: clip, and step with every learning rate at `scale` times its peak.

        Returns the gradient's norm before clipping.
        """

    def get(self, name: str, key: StateKey) -> Tensor:
        """A whole state tensor of a trained parameter, float32 on the CPU. Collective; after at least one step."""

    def weight(self, name: str) -> Tensor:
        """A whole trained parameter, float32 on the CPU. Collective; at any time."""

    def put(self, name: str, key: StateKey, value: Tensor) -> None:
        """Set what `get` returns. Collective; after at least one step (of rate 0, so that Adam's state exists).

        Raises RunError if the value has another shape than the parameter.
        """

    def set_step(self, step: int) -> None:
        """Set Adam's step counter."""


def trained_parameters(task: Task) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name in the task's model."""
    return {name: parameter for name, parameter in task.model.named_parameters() if parameter.requires_grad}


def check_shape(name: str, parameter: nn.Parameter, value: Tensor) -> None:
    """Raise RunError if the value has another shape than its parameter: copying would repeat it, or cut it."""
    shape = getattr(parameter, "ds_shape", parameter.shape)
    if value.shape != shape:
        # Not in the pre-flight: the checkpoint is read at the resume.
        raise RunError(
            f"the checkpoint is of another model ({name} is {list(value.shape)} there, and {list(shape)} here): use "
            "another --run name"
        )


class Objective(nn.Module):
    """The task's loss as a module, so that autocast and ZeRO-3's gathering happen in one forward pass.

    Trained weights stay float32; bf16 is a matter of the forward pass. Frozen weights may be stored in bfloat16.
    """

    def __init__(self, task: Task, options: Training, device: torch.device) -> None:
        super().__init__()
        self.model = task.model
        self._task_loss = task.loss
        self._precision = resolve_precision(options.precision)
        self._device_type = device.type

    def forward(self, batch: Batch) -> Tensor:
        """The sum of the batch's loss terms, a float32 scalar."""
        with autocast(self._precision, self._device_type):
            return self._task_loss(self.model, batch)


def make_optimizer(task: Task, options: Training) -> torch.optim.AdamW:
    """AdamW over the task's groups; each group's peak rate is kept as `peak`."""
    groups = [{**group, "peak": group["lr"]} for group in task.parameter_groups()]
    return torch.optim.AdamW(groups, eps=options.adam_epsilon, weight_decay=options.weight_decay, fused=True)


def scale_rates(optimizer: torch.optim.Optimizer, scale: float) -> None:
    """Set every group's learning rate to `scale` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * scale
