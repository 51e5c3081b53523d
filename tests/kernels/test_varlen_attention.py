"""Attention of packed sequences, compared with an independent computation token by token."""

from __future__ import annotations

import inspect
import sys
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import varlen

from lmrc.kernels import masked_attention
from lmrc.kernels import varlen_attention as kernels
from lmrc.kernels.varlen_attention import VarlenLayout, matmul_attention, varlen_attention
from tests.kernels import fakes

SIZE = 8
KERNELS = ["flash-attn", "torch varlen_attn"]


class Case(NamedTuple):
    layout: VarlenLayout
    causal: bool
    key_tokens: int
    key_heads: int = 4


CASES = {
    "windows": Case(VarlenLayout.of([3, 9, 1]), False, 13),
    "one text": Case(VarlenLayout.of([6]), True, 6, 2),
    "texts": Case(VarlenLayout.of([3, 9, 1]), True, 13, 2),
    "a prefix in front of each text": Case(VarlenLayout.of([6, 1, 3], [6, 4, 6]), True, 16),
    "a cache with spare room": Case(VarlenLayout.of([2, 1, 5], [7, 4, 5], [0, 10, 14]), True, 24, 2),
    "one token a row": Case(VarlenLayout.of([1, 1, 1], [7, 4, 5], [2, 10, 14]), True, 20, 1),
}


def inputs(case: Case, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    query_tokens = sum(case.layout.query_lengths)
    shapes = [(query_tokens, 4), (case.key_tokens, case.key_heads), (case.key_tokens, case.key_heads)]
    return [torch.randn(*shape, SIZE).to(dtype).requires_grad_() for shape in shapes]


def reference(case: Case, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Return the attention output, computed token by token and head by head."""
    rows, layout = [], case.layout
    for new, tokens, start in zip(layout.query_lengths, layout.key_lengths, layout.key_starts, strict=True):
        for position in range(tokens - new, tokens):
            seen = slice(start, start + (position + 1 if case.causal else tokens))
            q, heads = query[len(rows)], []
            for head in range(4):
                shared = head * case.key_heads // 4
                weights = (key[seen, shared] @ q[head] * scale).softmax(0)
                heads.append(weights @ value[seen, shared])
            rows.append(torch.stack(heads))
    return torch.stack(rows)


def check(case: Case, dtype: torch.dtype, tolerance: float, scale: float | None) -> None:
    """Compare output and gradients with the reference."""
    given = inputs(case, dtype)
    exact = [part.detach().double().requires_grad_() for part in given]
    expected = reference(case, *exact, SIZE**-0.5 if scale is None else scale)
    actual = varlen_attention(*given, case.layout, case.causal, scale)
    assert actual.dtype == dtype
    assert torch.allclose(actual.double(), expected, atol=tolerance)
    ones = torch.ones_like(expected).tril()
    gradients = torch.autograd.grad((actual.double() * ones).sum(), given)
    for gradient, other in zip(gradients, torch.autograd.grad((expected * ones).sum(), exact), strict=True):
        assert torch.allclose(gradient.double(), other, atol=tolerance)


@pytest.mark.parametrize("block", [256, 2])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.05)]
)
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("name", CASES)
def test_every_sequence_attends_to_itself(
    name: str, scale: float | None, dtype: torch.dtype, tolerance: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masked_attention, "_BLOCK", block)
    layout = CASES[name].layout
    fresh = VarlenLayout.of(layout.query_lengths, layout.key_lengths, layout.key_starts)
    check(CASES[name]._replace(layout=fresh), dtype, tolerance, scale)


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_one_kernel_call_per_layer(kernel: str, name: str, scale: float | None) -> None:
    with fakes.fake_kernel(kernel) as calls:
        check(CASES[name], torch.bfloat16, 0.05, scale)
        assert calls == [kernel]
        assert kernels.kernel_name() == kernel


def test_the_stand_in_has_torchs_signature() -> None:
    ours, theirs = (inspect.signature(function).parameters for function in (fakes.varlen_attn, varlen.varlen_attn))
    assert [(name, item.kind) for name, item in ours.items()] == [(name, item.kind) for name, item in theirs.items()]


@pytest.mark.parametrize("kernel", [*KERNELS, None])
def test_queries_and_keys_are_cast_to_the_type_of_values(kernel: str | None) -> None:
    """Rotary embeddings of an fp32 model may return fp32 queries and keys beside bf16 values."""
    case = CASES["texts"]
    query, key, value = inputs(case, torch.bfloat16)
    expected = varlen_attention(query, key, value, case.layout, case.causal)
    if kernel is None:
        actual = varlen_attention(query.float(), key.float(), value, case.layout, case.causal)
    else:
        with fakes.fake_kernel(kernel):
            actual = varlen_attention(query.float(), key.float(), value, case.layout, case.causal)
    assert actual.dtype == torch.bfloat16
    assert torch.allclose(actual, expected, atol=0.02)


def test_deterministic_algorithms_are_passed_to_flash_attn() -> None:
    case = CASES["texts"]
    torch.use_deterministic_algorithms(True)
    try:
        # The stand-in checks the argument.
        with fakes.fake_kernel("flash-attn"):
            varlen_attention(*inputs(case, torch.bfloat16), case.layout, case.causal)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", CASES)
def test_tensors_without_data_use_torchs_kernel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real function on the meta device, forward and backward."""
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    monkeypatch.setattr(F, "scaled_dot_product_attention", None)
    kernels._choose_kernel.cache_clear()
    case = CASES[name]
    given = [part.detach().to("meta").requires_grad_() for part in inputs(case, torch.bfloat16)]
    output = varlen_attention(*given, case.layout, case.causal)
    assert (output.shape, output.dtype) == (given[0].shape, torch.bfloat16)
    output.sum().backward()
    assert all(part.grad is not None and part.grad.shape == part.shape for part in given)


def test_offsets_are_made_once() -> None:
    layout = VarlenLayout.of([2, 1, 5], [7, 4, 5], [0, 10, 14])
    queries, keys = layout.cu_seqlens(torch.device("cpu"))
    # The gap between 7 and 10 is a sequence without queries; 10 + 4 = 14 leaves none.
    assert (queries.tolist(), keys.tolist()) == ([0, 2, 2, 3, 8], [0, 7, 10, 14, 19])
    assert layout.cu_seqlens(torch.device("cpu"))[0] is queries
    assert (layout.max_seqlen_q, layout.max_seqlen_k) == (5, 7)
    assert VarlenLayout.of([4, 2]).max_seqlen_q == 4


def test_overlapping_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="the keys of two sequences overlap"):
        VarlenLayout.of([1, 1], [7, 4], [0, 6])
    with pytest.raises(ValueError, match="2 query lengths, 1 key lengths and 1 key starts"):
        VarlenLayout.of([1, 1], [7])


@pytest.mark.parametrize(
    ("dtype", "size", "device", "expected"),
    [
        (torch.bfloat16, 64, "meta", True),
        (torch.float16, 128, "meta", True),
        (torch.float32, 64, "meta", False),
        (torch.bfloat16, 12, "meta", False),
        (torch.bfloat16, 264, "meta", False),
        (torch.bfloat16, 64, "cpu", False),
    ],
)
def test_kernels_are_for_16_bit_tensors_on_gpus(dtype: torch.dtype, size: int, device: str, expected: bool) -> None:
    assert kernels._runs_kernels(torch.empty(2, 3, size, dtype=dtype, device=device)) is expected


@pytest.mark.parametrize("scale", [None, 0.3])
def test_matmul_attention_equals_torchs_kernel(scale: float | None) -> None:
    torch.manual_seed(0)
    given = [torch.randn(1, 2, 13, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
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
    query = inputs(CASES["windows"], torch.bfloat16)[0]
    assert kernels._matmul_is_faster(query)
    assert not kernels._matmul_is_faster(query.float())
    assert not kernels._matmul_is_faster(query.detach())
    assert not kernels._matmul_is_faster(query.detach().to("meta").requires_grad_())
