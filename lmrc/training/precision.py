"""bf16 where the hardware multiplies in it: elsewhere it is emulated, far slower than fp32 (benchmarks/bf16.py)."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch

from lmrc.config.schema import Precision, ResolvedPrecision

# For products in bf16 on a CPU, torch and oneDNN each keep what they compiled for the last 1024 shapes. Batches hardly
# ever have the same shapes twice, so that a training would hold gigabytes of it; with 64 a step is as fast.
for _cache in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
    os.environ.setdefault(_cache, "64")


def bf16_is_native() -> bool:
    """Whether this process's device (GPU, else CPU) has instructions for bfloat16 products."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))


def resolve_precision(precision: Precision) -> ResolvedPrecision:
    """The precision that `auto` means here; the others mean themselves."""
    if precision == "auto":
        return "bf16" if bf16_is_native() else "fp32"
    return precision


def inference_precision(precision: ResolvedPrecision, model: str) -> ResolvedPrecision:
    """What a model that was trained in `precision` answers in here: fp32, and says so, where bf16 is emulated."""
    if precision == "bf16" and not bf16_is_native():
        print(f"bf16 is only emulated on this machine, and slow: {model} answers in fp32", flush=True)
        return "fp32"
    return precision


def autocast(precision: ResolvedPrecision, device_type: str) -> contextlib.AbstractContextManager[Any]:
    """The forward pass's precision, for training, evaluation and inference alike."""
    if precision == "bf16":
        return torch.autocast(device_type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
