"""bf16 where the hardware multiplies in it: elsewhere it is emulated, far slower than fp32 (benchmarks/bf16.py)."""

from __future__ import annotations

import os
from typing import Literal

import torch

from lmrc.config import Precision

# For products in bf16 on a CPU, torch and oneDNN each keep what they compiled for the last 1024 shapes. Batches hardly
# ever have the same shapes twice, so that a training would hold gigabytes of it; with 64 a step is as fast.
for _cache in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
    os.environ.setdefault(_cache, "64")


def bf16_is_native() -> bool:
    """Whether this process's device (GPU, else CPU) has instructions for bfloat16 products."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))


def settle(precision: Precision) -> Literal["fp32", "bf16"]:
    """The precision that `auto` means here; the others mean themselves."""
    if precision == "auto":
        return "bf16" if bf16_is_native() else "fp32"
    return precision
