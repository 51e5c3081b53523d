"""Peak speeds of known GPUs, by a part of their name in CUDA or SLURM.

Source: data sheets of NVIDIA (figures with sparsity halved), and for GeForce the white papers of GA102 and AD102 (with
accumulation in fp32). Volta and Turing have no bf16; their peaks are those of fp16.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """A known GPU.

    Attributes:
        flops: dense bf16 operations per second.
        bandwidth: bytes per second of its memory.
    """

    name: str
    flops: float
    bandwidth: float


# Words of the name: TFLOP/s, TB/s. A name with more words comes first.
_TABLE = {
    "gh200": (989, 4.0),
    "h100 pcie": (756, 2.0),
    "h100 nvl": (835, 3.9),
    "h100": (989, 3.35),
    "h200 nvl": (835, 4.8),
    "h200": (989, 4.8),
    "h20": (148, 4.0),
    "b200": (2250, 8.0),
    "a100 40gb": (312, 1.555),
    "a100": (312, 2.039),
    "a30": (165, 0.933),
    "a40": (149.7, 0.696),
    "a10": (125, 0.6),
    "l40s": (362, 0.864),
    "l40": (181, 0.864),
    "l4": (121, 0.3),
    "v100": (125, 0.9),
    "t4": (65, 0.32),
    "4090": (165.2, 1.008),
    "3090": (71, 0.936),
}
GPUS = tuple(Gpu(name, 1e12 * flops, 1e12 * bandwidth) for name, (flops, bandwidth) in _TABLE.items())


def known_gpu(name: str) -> Gpu | None:
    """Return a GPU by its name, such as NVIDIA A100-SXM4-80GB or a100_80gb; None if it is not known."""
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    return next((gpu for gpu in GPUS if set(gpu.name.split()) <= words), None)
