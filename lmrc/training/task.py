"""What the engine trains: the one interface between the training loop and the two stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lmrc.training.distributed import World

Batch = dict[str, Any]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on `device`; what is no tensor stays as it is."""
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value for key, value in batch.items()
    }


class Task(Protocol):
    """A model, its examples, its loss and its measure.

    Every process holds the same task. Anything that steers the order or the weight of the data must be the same on all
    of them, and must not depend on how many there are.
    """

    model: nn.Module
    unit: str
    """What throughput counts: "documents" or "tokens"."""

    def __len__(self) -> int:
        """Number of training examples."""

    def fingerprint(self) -> str:
        """Identity of the training examples; enters the order of data."""

    def weight(self, index: int) -> int:
        """Number of loss terms of a training example (pairs, answer tokens).

        The loss of a global batch is the sum over its examples divided by the sum of their weights, whatever the number
        of processes and micro-batches.
        """

    def size(self, index: int) -> int:
        """The example in `unit`s: 1 document, or its number of tokens."""

    def collate(self, indices: Sequence[int]) -> Batch:
        """The training examples as one batch of CPU tensors (and plain Python values)."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Sum (not mean) of the loss terms of `batch`, a float32 scalar. Tensors are on the model's device."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for AdamW: {"params": [...], "lr": peak rate}; trainable parameters only, each once."""

    def evaluate(self, model: nn.Module, world: World) -> dict[str, float]:
        """Dev metrics, the same on every rank. Called on all ranks, in eval mode, without gradients.

        Every rank calls the model the same number of times (ZeRO-3 gathers weights in the calls, and the ranks agree
        before each whether a signal ends the training): use `World.shard`.
        """

    def export(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write what later stages load. Rank 0 only; `weights`: the whole trained parameters, float32, on the CPU."""
