from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lmrc.config.schema import RcpLoss, RcpTraining
from lmrc.rcp.model.losses import LOSSES, dev_loss, relation_loss, training_loss


def entropy(logit: float, target: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -math.log(p if target else 1 - p)


def random_pairs(num_pairs: int, num_outputs: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(num_pairs, num_outputs, dtype=dtype), (torch.rand(num_pairs) < 0.4).to(dtype)


def test_every_option_value_is_registered() -> None:
    assert set(LOSSES) == set(get_args(RcpLoss))


@pytest.mark.parametrize("num_outputs", [1, 2])
@pytest.mark.parametrize("positive_weight", [1.0, 2.5])
def test_binary_cross_entropy_pair_by_pair(num_outputs: int, positive_weight: float) -> None:
    outputs, targets = random_pairs(5, num_outputs, torch.float64)
    expected = 0.0
    for row, target in zip(outputs.tolist(), targets.tolist(), strict=True):
        # The published one-hot target: (1, 0) without a relation, (0, 1) with one.
        labels = [target] if num_outputs == 1 else [1 - target, target]
        loss = sum(map(entropy, row, labels)) / num_outputs
        expected += (positive_weight if target else 1.0) * loss
    options = RcpTraining(positive_weight=positive_weight)
    assert LOSSES["bce"](outputs, targets, options).item() == pytest.approx(expected)


@pytest.mark.parametrize("num_pairs", [0, 1, 7, 4097])
@pytest.mark.parametrize("positive_weight", [1.0, 2.5])
@pytest.mark.parametrize("has_relations", [False, True])
@pytest.mark.parametrize("num_outputs", [1, 2])
def test_training_loss_is_bit_identical_to_separate_formulas(
    num_outputs: int, has_relations: bool, positive_weight: float, num_pairs: int
) -> None:
    """Values and gradients: one output per pair without labels of shape [pairs, 1], two with one-hot labels."""
    outputs, targets = random_pairs(num_pairs, num_outputs + has_relations, torch.float32)
    options = RcpTraining(positive_weight=positive_weight, relation_weight=0.5)
    batch = {"targets": targets, **({"relations": targets} if has_relations else {})}

    def separate(outputs: Tensor) -> Tensor:
        own = outputs[:, :-1] if has_relations else outputs
        weight = 1 + (positive_weight - 1) * targets
        if num_outputs == 1:
            loss = F.binary_cross_entropy_with_logits(own.squeeze(1), targets, weight, reduction="sum")
        else:
            one_hot = torch.stack([1 - targets, targets], 1)
            loss = F.binary_cross_entropy_with_logits(own, one_hot, weight.unsqueeze(1), reduction="sum") / 2
        return loss + 0.5 * outputs[:, -1].sum() if has_relations else loss

    values, gradients = [], []
    for loss in (lambda outputs: training_loss(outputs, batch, options), separate):
        leaf = outputs.clone().requires_grad_()
        value = loss(leaf)
        values.append(value.detach())
        gradients.append(torch.autograd.grad(value, leaf)[0])
    assert torch.equal(*values)
    assert torch.equal(*gradients)


def test_relation_loss_relation_by_relation() -> None:
    logits, targets = torch.randn(2, 3, 4), torch.rand(2, 3, 4) < 0.3
    losses = relation_loss(logits, targets)
    for index in range(3):
        expected = sum(map(entropy, logits[1, index].tolist(), targets[1, index].tolist()))
        assert losses[1, index].item() == pytest.approx(expected, rel=1e-5)


def test_dev_loss_is_unweighted() -> None:
    outputs, targets = random_pairs(5, 1, torch.float32)
    expected = sum(map(entropy, outputs[:, 0].tolist(), targets.tolist()))
    assert dev_loss(outputs[:, 0], targets) == pytest.approx(expected, rel=1e-6)
