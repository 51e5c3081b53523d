from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lmrc.kernels.varlen_attention import VarlenLayout
from lmrc.rcp.model.window_attention import packed_window_attention

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
    given = inputs(dtype)
    exact = [part.detach().double().requires_grad_() for part in given]
    expected = reference_attention(*exact, 0.5 if scale is None else scale)
    actual, _ = packed_window_attention(nn.Module(), *given, None, scaling=scale, layout=VarlenLayout.of(WINDOWS))
    assert torch.allclose(actual.double(), expected, atol=tolerance)
    gradients = torch.autograd.grad((actual.double() * ONES).sum(), given)
    for actual_gradient, expected_gradient in zip(
        gradients, torch.autograd.grad((expected * ONES).sum(), exact), strict=True
    ):
        assert torch.allclose(actual_gradient.double(), expected_gradient, atol=tolerance)


def test_a_single_window_needs_no_layout() -> None:
    given = inputs(torch.float32)
    expected, _ = packed_window_attention(nn.Module(), *given, None, layout=VarlenLayout.of([sum(WINDOWS)]))
    actual, _ = packed_window_attention(nn.Module(), *given, None)
    assert torch.equal(actual, expected)


def test_attention_dropout_is_refused() -> None:
    with pytest.raises(ValueError, match=r"attention dropout is 0\.1"):
        packed_window_attention(nn.Module(), *inputs(torch.float32), None, dropout=0.1)
