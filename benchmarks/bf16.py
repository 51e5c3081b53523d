"""Compare the speed of fp32 and bf16 matrix products of an encoder's size on this machine's CPU, in one process.

python benchmarks/bf16.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from lmrc.training.precision import resolve_precision

# Tokens of a batch of 4 documents, MiniLM's hidden size and its feed-forward size.
TOKENS, HIDDEN, INNER = 740, 384, 1536
ROUNDS = 7


def seconds(dtype: torch.dtype) -> float:
    """Return the seconds of one product [tokens, hidden] x [hidden, inner]."""
    left, right = torch.randn(TOKENS, HIDDEN).to(dtype), torch.randn(HIDDEN, INNER).to(dtype)
    start = time.perf_counter()
    left @ right
    return time.perf_counter() - start


def main() -> None:
    """Print both medians, and their ratio on the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    times: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    for _ in range(ROUNDS + 1):
        for dtype, taken in times.items():
            taken.append(seconds(dtype))
    # The first round warms up.
    fp32, bf16 = (statistics.median(taken[1:]) for taken in times.values())
    figures = {
        "fp32_ms": 1e3 * fp32,
        "bf16_ms": 1e3 * bf16,
        "bf16_speed": fp32 / bf16,
        "auto": resolve_precision("auto"),
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(figures) + "\n")
    print(f"fp32 {1e3 * fp32:.2f} ms, bf16 {1e3 * bf16:.2f} ms; train.precision auto means {figures['auto']} here")
    print(f"bf16 at {fp32 / bf16:.3f} x the speed of fp32")


if __name__ == "__main__":
    main()
