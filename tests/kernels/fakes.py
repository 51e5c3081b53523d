"""Stand-ins for flash-attn and torch's varlen_attn: the same signatures and rules, computed by plain products."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from lmrc.kernels import varlen_attention as kernels

calls: list[str] = []


def products(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    max_q: int,
    max_k: int,
    causal: bool,
    scale: float | None,
) -> Tensor:
    """Check the rules of flash attention, and compute it head by head in float32."""
    assert query.dtype == key.dtype == value.dtype and value.dtype in (torch.float16, torch.bfloat16)
    assert cu_q.dtype == cu_k.dtype == torch.int32 and cu_q.is_contiguous() and cu_k.is_contiguous()
    assert cu_q.shape == cu_k.shape and cu_q.dim() == 1 and type(max_q) is type(max_k) is int
    assert query.dim() == key.dim() == 3 and key.shape == value.shape
    assert all(part.stride(-1) == 1 for part in (query, key, value))
    heads, groups = query.shape[1], query.shape[1] // key.shape[1]
    assert heads == groups * key.shape[1] and query.shape[2] % 8 == 0
    if max_q == 1 and groups > 1:
        # The kernel then takes the heads of a group as the queries of a sequence.
        assert len(query) == len(cu_q) - 1
    q_ends, k_ends = cu_q.tolist(), cu_k.tolist()
    assert q_ends[0] == 0 and q_ends[-1] == len(query) and k_ends[-1] <= len(key)
    outputs = []
    for first, end, key_first, key_end in zip(q_ends, q_ends[1:], k_ends, k_ends[1:], strict=False):
        new, tokens = end - first, key_end - key_first
        if not new:
            continue
        assert 0 < new <= max_q and 0 < tokens <= max_k
        for head in range(heads):
            q = query[first:end, head].float()
            k, v = (part[key_first:key_end, head // groups].float() for part in (key, value))
            scores = q @ k.T * (query.shape[2] ** -0.5 if scale is None else scale)
            if causal:
                scores = scores.masked_fill(torch.ones(new, tokens).triu(tokens - new + 1).bool(), float("-inf"))
            outputs.append(scores.softmax(-1) @ v)
    per_sequence = [torch.stack(outputs[at : at + heads], 1) for at in range(0, len(outputs), heads)]
    return torch.cat(per_sequence).to(query.dtype)


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Tensor | None = None,
) -> Tensor:
    """Stand in for the function of flash-attn 2.7."""
    assert (dropout_p, window_size, softcap, alibi_slopes, return_attn_probs, block_table) == (
        0.0,
        (-1, -1),
        0.0,
        None,
        False,
        None,
    )
    assert deterministic == torch.are_deterministic_algorithms_enabled()
    calls.append("flash-attn")
    return products(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal, softmax_scale)


def varlen_attn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor | None,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    seqused_k: Tensor | None = None,
    block_table: Tensor | None = None,
    num_splits: int | None = None,
) -> Tensor:
    """Stand in for the function of torch 2.13."""
    assert return_aux is seqused_k is block_table is num_splits is None and cu_seq_k is not None
    assert window_size in ((-1, -1), (-1, 0))
    assert enable_gqa or query.shape[1] == key.shape[1]
    calls.append("torch varlen_attn")
    return products(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, window_size == (-1, 0), scale)


@contextmanager
def fake_kernel(name: str) -> Iterator[list[str]]:
    """Let CPU tensors use a stand-in kernel. Yields the list of its calls."""
    with pytest.MonkeyPatch.context() as patch:
        if name == "flash-attn":
            module = ModuleType("flash_attn")
            module.flash_attn_varlen_func = flash_attn_varlen_func  # type: ignore[attr-defined]
            patch.setitem(sys.modules, "flash_attn", module)
        else:
            patch.setitem(sys.modules, "flash_attn", None)
            patch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
        patch.setattr(kernels, "_runs_kernels", lambda tensor: tensor.dtype in (torch.float16, torch.bfloat16))
        kernels._choose_kernel.cache_clear()
        calls.clear()
        try:
            yield calls
        finally:
            kernels._choose_kernel.cache_clear()
