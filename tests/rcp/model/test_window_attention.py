from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmrc.rcp.model.window_attention import matmul_attention, matmul_is_faster, packed_window_attention

WINDOWS = (3, 9, 1)
ONES = torch.ones(1, sum(WINDOWS), 2, 4, dtype=torch.float64).tril()


def inputs(dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(1, 2, sum(WINDOWS), 4).to(dtype).requires_grad_() for _ in range(3)]


def one_by_one(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Token by token, head by head: a weighted mean of the values of its window. [1, tokens, heads, head size]."""
    rows, start = [], 0
    for length in WINDOWS:
        window = slice(start, start + length)
        for token in range(start, start + length):
            heads = [
                sum(w * v for w, v in zip((k @ q * scale).softmax(0), values, strict=True))
                for q, k, values in zip(query[0, :, token], key[0, :, window], value[0, :, window], strict=True)
            ]
            rows.append(torch.stack(heads))  # type: ignore[arg-type]
        start += length
    return torch.stack(rows)[None]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.05)]
)
@pytest.mark.parametrize("scale", [None, 0.3])
def test_every_window_attends_to_itself(dtype: torch.dtype, tolerance: float, scale: float | None) -> None:
    """In float32 by torch's kernel, in bfloat16 by products: outputs and gradients."""
    given = inputs(dtype)
    exact = [part.detach().double().requires_grad_() for part in given]
    expected = one_by_one(*exact, 0.5 if scale is None else scale)
    actual, _ = packed_window_attention(nn.Module(), *given, None, scaling=scale, windows=WINDOWS)
    assert torch.allclose(actual.double(), expected, atol=tolerance)
    gradients = torch.autograd.grad((actual.double() * ONES).sum(), given)
    for found, wanted in zip(gradients, torch.autograd.grad((expected * ONES).sum(), exact), strict=True):
        assert torch.allclose(found.double(), wanted, atol=tolerance)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_products_are_attention(scale: float | None) -> None:
    given = inputs(torch.float64)
    expected = F.scaled_dot_product_attention(*given, scale=scale)
    actual = matmul_attention(*given, scale=scale)
    assert torch.allclose(actual, expected, atol=1e-12)
    weight = torch.rand_like(actual)
    for found, wanted in zip(
        torch.autograd.grad((actual * weight).sum(), given),
        torch.autograd.grad((expected * weight).sum(), given),
        strict=True,
    ):
        assert torch.allclose(found, wanted, atol=1e-12)


def test_products_are_for_training_in_bf16_on_a_cpu() -> None:
    assert matmul_is_faster(inputs(torch.bfloat16)[0])
    assert not matmul_is_faster(inputs(torch.float32)[0])
    assert not matmul_is_faster(inputs(torch.bfloat16)[0].detach())
    assert not matmul_is_faster(torch.empty(1, 2, 3, 4, dtype=torch.bfloat16, device="meta", requires_grad=True))


def test_dropout_of_weights_is_left_to_torch() -> None:
    """`products` knows none: with it, all weights dropped leave nothing."""
    output, _ = packed_window_attention(nn.Module(), *inputs(torch.bfloat16), None, dropout=1.0, windows=WINDOWS)
    assert not output.any()
