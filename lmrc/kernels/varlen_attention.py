"""Attention of packed sequences of different lengths in one kernel call (varlen attention).

The kernel is chosen once per process: flash-attn's if it is installed, else torch's own. Both compute fp16 and bf16 on
GPUs. Everything else, such as a CPU, takes one call of torch's scaled dot product attention per sequence.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor

from lmrc.kernels.masked_attention import Block, attention, causal_blocks

KernelName = Literal["flash-attn", "torch varlen_attn", "sdpa per sequence"]
# A kernel is called with query, key, value, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal, scale.
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, int, bool, "float | None"], Tensor]
_MAX_HEAD_SIZE = 256


@dataclass(frozen=True)
class VarlenLayout:
    """Lengths of packed sequences. Make one per batch: all layers share its tensors.

    The queries of the sequences follow each other without gaps. Keys may have gaps between sequences, such as the spare
    room of a KV cache; those keys are not read.

    Attributes:
        query_lengths: number of queries of each sequence.
        key_lengths: number of keys of each sequence.
        key_starts: index of the first key of each sequence, ascending.
    """

    query_lengths: tuple[int, ...]
    key_lengths: tuple[int, ...]
    key_starts: tuple[int, ...]
    # Per device, because the layers of one LM may be on several.
    _cu_seqlens: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, compare=False)
    _blocks: dict[torch.device, list[list[Block]]] = field(default_factory=dict, init=False, compare=False)

    @classmethod
    def of(
        cls,
        query_lengths: Sequence[int],
        key_lengths: Sequence[int] | None = None,
        key_starts: Sequence[int] | None = None,
    ) -> VarlenLayout:
        """Create a layout.

        Args:
            query_lengths: number of queries of each sequence.
            key_lengths: number of keys of each sequence; by default, as many as queries.
            key_starts: index of the first key of each sequence; by default, the sequences follow each other.

        Raises:
            ValueError: if the lists differ in length, or the keys of two sequences overlap.
        """
        queries = tuple(query_lengths)
        keys = queries if key_lengths is None else tuple(key_lengths)
        starts = tuple(accumulate(keys[:-1], initial=0)) if key_starts is None else tuple(key_starts)
        if not len(queries) == len(keys) == len(starts) > 0:
            raise ValueError(
                f"{len(queries)} query lengths, {len(keys)} key lengths and {len(starts)} key starts: give one of each "
                "per sequence"
            )
        ends = [start + length for start, length in zip(starts, keys, strict=True)]
        if any(start < end for start, end in zip(starts, [0, *ends[:-1]], strict=True)):
            raise ValueError(f"key starts {starts} with key lengths {keys}: the keys of two sequences overlap")
        return cls(queries, keys, starts)

    @cached_property
    def max_seqlen_q(self) -> int:
        """Upper limit of the number of queries of a sequence."""
        longest = max(self.query_lengths)
        # With 1 and grouped heads, flash attention reads one query per sequence, but a gap has none.
        return max(longest, 2) if self._has_gaps else longest

    @cached_property
    def max_seqlen_k(self) -> int:
        """Number of keys of the longest sequence."""
        return max(self.key_lengths)

    def cu_seqlens(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the cumulative lengths of queries and of keys, int32 [sequences + gaps + 1].

        A gap is a sequence without queries. The copy to the device is made once, and the host does not wait for it.
        """
        if device not in self._cu_seqlens:
            queries, keys = [0], [0]
            for new, start, length in zip(self.query_lengths, self.key_starts, self.key_lengths, strict=True):
                if start > keys[-1]:
                    queries.append(queries[-1])
                    keys.append(start)
                queries.append(queries[-1] + new)
                keys.append(start + length)
            both = torch.tensor([queries, keys], dtype=torch.int32).to(device, non_blocking=True)
            self._cu_seqlens[device] = (both[0], both[1])
        return self._cu_seqlens[device]

    @property
    def _has_gaps(self) -> bool:
        return self.key_starts[-1] != sum(self.key_lengths[:-1])

    def split_queries(self, query: Tensor) -> tuple[Tensor, ...]:
        """Return the part of each sequence, [queries, ...], of [query_tokens, ...]."""
        return torch.split(query, list(self.query_lengths))

    def split_keys(self, key: Tensor) -> tuple[Tensor, ...]:
        """Return the part of each sequence, [keys, ...], of [key_tokens, ...]."""
        sizes, end = list[int](), 0
        for start, length in zip(self.key_starts, self.key_lengths, strict=True):
            sizes += [start - end, length]
            end = start + length
        return torch.split(key, [*sizes, key.shape[0] - end])[1::2]

    def causal_blocks(self, device: torch.device) -> list[list[Block]]:
        """Return the causal masks of each sequence, for `attention`. They are made once per device."""
        if device not in self._blocks:
            pairs = zip(self.query_lengths, self.key_lengths, strict=True)
            self._blocks[device] = [causal_blocks(new, tokens, device) for new, tokens in pairs]
        return self._blocks[device]


def varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: VarlenLayout, causal: bool, scale: float | None = None
) -> Tensor:
    """Compute the attention of each sequence to itself. Heads of queries may share heads of keys.

    Args:
        query: [query_tokens, heads, head size].
        key: [key_tokens, key heads, head size].
        value: like `key`. Queries and keys are cast to its data type.
        layout: lengths of the sequences.
        causal: whether a token attends to no later one. The last query of a sequence belongs to its last key.
        scale: factor of the scores; by default 1 / sqrt(head size).

    Returns:
        Like `query`, in the data type of `value`.
    """
    query, key = query.to(value.dtype), key.to(value.dtype)
    kernel = _choose_kernel()[1] if _runs_kernels(value) else None
    if kernel is None:
        return _attention_per_sequence(query, key, value, layout, causal, scale)
    cu_seqlens_q, cu_seqlens_k = layout.cu_seqlens(query.device)
    return kernel(
        query, key, value, cu_seqlens_q, cu_seqlens_k, layout.max_seqlen_q, layout.max_seqlen_k, causal, scale
    )


def kernel_name() -> KernelName:
    """Return the kernel that this process uses on GPUs."""
    return _choose_kernel()[0]


@cache
def _choose_kernel() -> tuple[KernelName, Kernel | None]:
    function = _flash_attn_function()
    if function is not None:
        return "flash-attn", partial(_flash_attn, function)
    function = _torch_function()
    if function is not None:
        return "torch varlen_attn", partial(_torch_varlen, function)
    return "sdpa per sequence", None


def _flash_attn_function() -> Callable[..., Any] | None:
    try:
        from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]
    except ImportError:
        return None
    return flash_attn_varlen_func  # type: ignore[no-any-return]


def _torch_function() -> Callable[..., Any] | None:
    """Return torch's function, or None before torch 2.12, which has other arguments or none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return (
        varlen_attn if {"window_size", "scale", "enable_gqa"} <= {*inspect.signature(varlen_attn).parameters} else None
    )


def _flash_attn(
    function: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    causal: bool,
    scale: float | None,
) -> Tensor:
    return function(
        query,
        key,
        value,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
        max_seqlen_q=max_seqlen_q,
        max_seqlen_k=max_seqlen_k,
        softmax_scale=scale,
        causal=causal,
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )


def _torch_varlen(
    function: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    causal: bool,
    scale: float | None,
) -> Tensor:
    return function(
        query,
        key,
        value,
        cu_seq_q=cu_seqlens_q,
        cu_seq_k=cu_seqlens_k,
        max_q=max_seqlen_q,
        max_k=max_seqlen_k,
        scale=scale,
        window_size=(-1, 0) if causal else (-1, -1),
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _runs_kernels(tensor: Tensor) -> bool:
    """Return whether flash attention supports the device, data type and head size of a tensor."""
    device, size = tensor.device, tensor.shape[-1]
    if device.type not in ("cuda", "meta") or tensor.dtype not in (torch.float16, torch.bfloat16):
        return False
    return size % 8 == 0 and size <= _MAX_HEAD_SIZE and (device.type == "meta" or _is_ampere(device))


@cache
def _is_ampere(device: torch.device) -> bool:
    # Without CUDA, only a tensor without data can be on such a device.
    return not torch.cuda.is_available() or torch.cuda.get_device_capability(device) >= (8, 0)


def _attention_per_sequence(
    query: Tensor, key: Tensor, value: Tensor, layout: VarlenLayout, causal: bool, scale: float | None
) -> Tensor:
    blocks = layout.causal_blocks(query.device) if causal else [[]] * len(layout.query_lengths)
    matmul = not causal and _matmul_is_faster(query)
    parts = zip(layout.split_queries(query), layout.split_keys(key), layout.split_keys(value), blocks, strict=True)
    outputs = []
    for q, k, v, masks in parts:
        q, k, v = (part.transpose(0, 1)[None] for part in (q, k, v))
        output = matmul_attention(q, k, v, scale) if matmul else attention(q, k, v, scale, masks, causal)
        outputs.append(output[0].transpose(0, 1))
    return torch.cat(outputs)


def _matmul_is_faster(query: Tensor) -> bool:
    """Return True for bf16 training on a CPU, where torch's fused kernel has a slow backward pass (see benchmarks/)."""
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.requires_grad


def matmul_attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """Compute scaled dot product attention by matrix products, without a mask.

    The backward pass keeps the attention weights of the sequence, [1, heads, length, length].
    """
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    return ((query * factor) @ key.transpose(-1, -2)).softmax(-1) @ value
