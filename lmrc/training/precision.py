"""Precision of forward passes: bf16 if the hardware supports it, because emulated bf16 is far slower than fp32.

benchmarks/bf16.py measures both.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch

from lmrc.config.schema import Precision, ResolvedPrecision

# For bf16 products on a CPU, torch and oneDNN each cache the kernels of the last 1024 shapes. Batches rarely repeat a
# shape, so the caches would grow to gigabytes. With 64 entries a step is as fast.
for _cache in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
    os.environ.setdefault(_cache, "64")


def bf16_is_native() -> bool:
    """Return True if the GPU, or the CPU if there is no GPU, has instructions for bfloat16 products."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))


def resolve_precision(precision: Precision) -> ResolvedPrecision:
    """Return the precision that `auto` means on this machine; return any other value unchanged."""
    if precision == "auto":
        return "bf16" if bf16_is_native() else "fp32"
    return precision


def inference_precision(precision: ResolvedPrecision, model: str) -> ResolvedPrecision:
    """Return the precision for inference: that of the training, or fp32 (and print so) if bf16 is emulated."""
    if precision == "bf16" and not bf16_is_native():
        print(f"bf16 is only emulated on this machine, and slow: {model} answers in fp32", flush=True)
        return "fp32"
    return precision


def autocast(precision: ResolvedPrecision, device_type: str) -> contextlib.AbstractContextManager[Any]:
    """Return the autocast context of a forward pass, in training, evaluation and inference."""
    if precision == "bf16":
        return torch.autocast(device_type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
