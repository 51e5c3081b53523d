"""Attention of windows laid end to end, each to itself: the attention that `lmrc.rcp.model.packed_encoder` gives the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from lmrc.rcp.model.recompute import note

IMPLEMENTATION = "packed_windows"


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    windows: Sequence[int] = (),
    **unused: Any,
) -> tuple[Tensor, None]:
    """Each window attends to itself (flash attention where the device has it).

    query, key, value: [1, heads, tokens, head size]; `windows`: their lengths, which add up to `tokens`. Returns
    [1, tokens, heads, head size].
    """
    lengths = list(windows) or [query.shape[2]]
    by_products = products_pay(query) and not dropout
    kernel = products if by_products else partial(F.scaled_dot_product_attention, dropout_p=dropout)
    outputs = [
        kernel(q, k, v, scale=scaling).transpose(1, 2)
        for q, k, v in zip(*(torch.split(part, lengths, 2) for part in (query, key, value)), strict=True)
    ]
    return note(_joined, *outputs), None


def products_pay(query: Tensor) -> bool:
    """Whether to train with `products`: torch's kernel for CPUs is slow in bf16's backward pass (see benchmarks/)."""
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.requires_grad


def products(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """What torch's scaled_dot_product_attention gives, one product after the other; without dropout.

    Keeps the weights [1, heads, length, length] of one window for the backward pass.
    """
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    return ((query * factor) @ key.transpose(-1, -2)).softmax(-1) @ value


def _joined(*outputs: Tensor) -> Tensor:
    return torch.cat(outputs, 1)


AttentionInterface.register(IMPLEMENTATION, attend)
