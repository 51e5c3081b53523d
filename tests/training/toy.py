"""A small regression task that any backend trains in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lmrc.training.distributed import World
from lmrc.training.task import Batch


class ToyModel(nn.Module):
    """A model of two trained layers and a frozen one."""

    def __init__(self, dropout: float, frozen: torch.dtype) -> None:
        super().__init__()
        self.first = nn.Linear(6, 7)
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Linear(7, 3)
        self.frozen = nn.Linear(3, 3, dtype=frozen).requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.second(self.dropout(torch.tanh(self.first(inputs))))
        output: Tensor = self.frozen(hidden.to(self.frozen.weight.dtype)).float() + hidden
        return output


class ToyTask:
    """A task with examples of unequal weight and with two parameter groups."""

    unit = "documents"

    def __init__(self, examples: int = 10, dropout: float = 0.0, frozen: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        self.model = ToyModel(dropout, frozen)
        generator = torch.Generator().manual_seed(1)
        self.inputs = [torch.randn(1 + i % 3, 6, generator=generator) for i in range(examples)]
        self.targets = [torch.randn(len(x), 3, generator=generator) for x in self.inputs]
        self.seen: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.inputs)

    def fingerprint(self) -> str:
        return "toy"

    def weight(self, index: int) -> int:
        return len(self.inputs[index])

    def size(self, index: int) -> int:
        return 1

    def flops(self, index: int) -> float:
        return 100.0 * len(self.inputs[index])

    def collate(self, indices: Sequence[int]) -> Batch:
        self.seen.append(list(indices))
        return {
            "x": torch.cat([self.inputs[i] for i in indices]),
            "y": torch.cat([self.targets[i] for i in indices]),
        }

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        errors: Tensor = (model(batch["x"]) - batch["y"]).square().mean(dim=1)
        return errors.sum()

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [
            {"params": list(self.model.first.parameters()), "lr": 1e-2},
            {"params": list(self.model.second.parameters()), "lr": 3e-2},
        ]

    def evaluate(self, model: nn.Module, world: World) -> dict[str, float]:
        indices, real = world.shard(len(self))
        loss = weight = 0.0
        for position, index in enumerate(indices):
            value = float(self.loss(model, {"x": self.inputs[index], "y": self.targets[index]}).detach())
            if position < real:
                loss, weight = loss + value, weight + self.weight(index)
        loss, weight = world.sum([loss, weight])
        return {"loss": loss / weight, "constant": 1.0}

    def export(self, folder: Path, weights: dict[str, Tensor]) -> None:
        save_file(weights, folder / "weights.safetensors")
