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


def reference_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Return the attention output, [1, tokens, heads, head size], computed token by token and head by head."""
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
    """Compare outputs and gradients of torch's kernel (float32) and of `matmul_attention` (bfloat16)."""
    given = inputs(dtype)
    exact = [part.detach().double().requires_grad_() for part in given]
    expected = reference_attention(*exact, 0.5 if scale is None else scale)
    actual, _ = packed_window_attention(nn.Module(), *given, None, scaling=scale, windows=WINDOWS)
    assert torch.allclose(actual.double(), expected, atol=tolerance)
    gradients = torch.autograd.grad((actual.double() * ONES).sum(), given)
    for actual_gradient, expected_gradient in zip(
        gradients, torch.autograd.grad((expected * ONES).sum(), exact), strict=True
    ):
        assert torch.allclose(actual_gradient.double(), expected_gradient, atol=tolerance)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_matmul_attention_equals_torchs_kernel(scale: float | None) -> None:
    given = inputs(torch.float64)
    expected = F.scaled_dot_product_attention(*given, scale=scale)
    actual = matmul_attention(*given, scale=scale)
    assert torch.allclose(actual, expected, atol=1e-12)
    weight = torch.rand_like(actual)
    for actual_gradient, expected_gradient in zip(
        torch.autograd.grad((actual * weight).sum(), given),
        torch.autograd.grad((expected * weight).sum(), given),
        strict=True,
    ):
        assert torch.allclose(actual_gradient, expected_gradient, atol=1e-12)


def test_matmul_attention_is_for_bf16_training_on_a_cpu() -> None:
    assert matmul_is_faster(inputs(torch.bfloat16)[0])
    assert not matmul_is_faster(inputs(torch.float32)[0])
    assert not matmul_is_faster(inputs(torch.bfloat16)[0].detach())
    assert not matmul_is_faster(torch.empty(1, 2, 3, 4, dtype=torch.bfloat16, device="meta", requires_grad=True))


def test_attention_dropout_uses_torchs_kernel() -> None:
    """`matmul_attention` has no dropout; with probability 1 the output is zero."""
    output, _ = packed_window_attention(nn.Module(), *inputs(torch.bfloat16), None, dropout=1.0, windows=WINDOWS)
    assert not output.any()
