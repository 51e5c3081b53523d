"""The task interface between the training loop and the stages RCP and RC."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lmrc.training.distributed import World

Batch = dict[str, Any]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with its tensors on `device`. Other values are unchanged."""
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value for key, value in batch.items()
    }


class Task(Protocol):
    """A model with its training examples, its loss and its evaluation.

    Every process has the same task. The order and the weight of the data must be the same on all of them, and must not
    depend on the number of processes.

    Attributes:
        model: The model to train.
        unit: The unit of throughput: "documents" or "tokens".
    """

    model: nn.Module
    unit: str

    def __len__(self) -> int:
        """Return the number of training examples."""

    def fingerprint(self) -> str:
        """Return a fingerprint of the training examples. The data order depends on it."""

    def weight(self, index: int) -> int:
        """Return the number of loss terms of a training example (pairs, or tokens of the answer).

        The loss of a global batch is the sum over its examples divided by the sum of their weights, for any number of
        processes and micro-batches.
        """

    def size(self, index: int) -> int:
        """Return the size of a training example in `unit`: 1 document, or its number of tokens."""

    def flops(self, index: int) -> float:
        """Return the model FLOPs of a training example, forward and backward (`lmrc.usage.flops`)."""

    def collate(self, indices: Sequence[int]) -> Batch:
        """Return training examples as one batch of CPU tensors and plain Python values."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the sum (not the mean) of the loss terms of a batch, a float32 scalar."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups for AdamW, {"params": [...], "lr": peak rate}, with each trainable parameter once."""

    def evaluate(self, model: nn.Module, world: World) -> dict[str, float]:
        """Return the dev metrics, the same on every rank. Collective; in eval mode, without gradients.

        Every rank must call the model the same number of times: use `World.shard`. In each call ZeRO-3 gathers weights
        and the ranks agree if a signal ends the training.
        """

    def export(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write the model in the form that later stages load. Called on rank 0 only.

        Args:
            folder: An empty folder.
            weights: The trained parameters by name, unsharded, float32, on the CPU.
        """
