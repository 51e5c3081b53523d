"""Training losses of RCP, summed over ordered pairs.

`LOSSES` maps the values of the option `train.loss` to functions. To add a loss, write a function here, register it, and
add its name to `RcpLoss` in lmrc/config/schema.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lmrc.config.schema import RcpLoss, RcpTraining

# A loss is called with:
#   outputs: a classifier's outputs. [pairs, 1]: logit of P(relation); [pairs, 2]: logits of (no relation, relation).
#   targets: [pairs] in {0, 1}, float.
#   options: options of the training.
# It returns the sum over pairs.
LossFunction = Callable[[Tensor, Tensor, RcpTraining], Tensor]


def binary_cross_entropy(outputs: Tensor, targets: Tensor, options: RcpTraining) -> Tensor:
    """Return the binary cross entropy, averaged over the outputs of a pair and summed over pairs.

    Two outputs are compared to one-hot targets, as in the published code. Pairs with a relation have the weight
    `train.positive_weight`.
    """
    num_outputs = outputs.shape[1]
    labels = targets.unsqueeze(1) if num_outputs == 1 else torch.stack([1 - targets, targets], 1)
    weight = (1 + (options.positive_weight - 1) * targets).unsqueeze(1)
    return F.binary_cross_entropy_with_logits(outputs, labels, weight, reduction="sum") / num_outputs


LOSSES: dict[RcpLoss, LossFunction] = {"bce": binary_cross_entropy}


def training_loss(outputs: Tensor, batch: Mapping[str, Any], options: RcpTraining) -> Tensor:
    """Return the loss `train.loss` plus the weighted loss of the relation head, summed over pairs.

    Args:
        outputs: outputs of the model, [pairs, outputs]. If the batch has "relations", the last column is the loss of
            the relation head.
        batch: a batch with "targets", [pairs] in {0, 1}.
        options: options of the training.
    """
    loss = LOSSES[options.loss]
    if "relations" not in batch:
        return loss(outputs, batch["targets"], options)
    return loss(outputs[:, :-1], batch["targets"], options) + options.relation_weight * outputs[:, -1].sum()


def relation_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the binary cross entropy of each pair, summed over relations.

    Args:
        logits: logit of each relation, [..., relations].
        targets: True if the relation holds, bool [..., relations].
    """
    labels = targets.to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(-1)


def dev_loss(logits: Tensor, targets: Tensor) -> float:
    """Return the binary cross entropy of P(relation), unweighted and summed over pairs, computed in float64.

    Args:
        logits: logits of P(relation), [pairs].
        targets: [pairs] in {0, 1}.
    """
    return float(F.binary_cross_entropy_with_logits(logits.double(), targets.double(), reduction="sum"))
