"""Benchmark of bf16 attention in training on a CPU: torch's fused kernel and `matmul_attention`.

It alternates forward and backward passes of a window, with 12 heads of size 32 (MiniLM) and of size 64 (RoBERTa-base).
Outputs are compared first.

    python benchmarks/attention.py [--threads 2]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from side_by_side import in_turn
from torch import Tensor

from lmrc.kernels.varlen_attention import matmul_attention

HEADS = 12
LENGTHS = (128, 200, 256, 320, 400, 512)


def inputs(length: int, size: int) -> list[Tensor]:
    """Return query, key and value in the memory layout of linear layers, [1, heads, length, size]."""
    tensors = torch.randn(3, 1, length, HEADS * size, dtype=torch.bfloat16).requires_grad_()
    return [tensor.view(1, length, HEADS, size).transpose(1, 2) for tensor in tensors]


def step(kernel: Callable[..., Tensor], given: list[Tensor], index: int) -> None:
    """Run a forward and a backward pass."""
    torch.autograd.grad(kernel(*given).sum(), given)


def main() -> None:
    """Print milliseconds per window, and the ratio of the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    ratios = []
    for size in (32, 64):
        for length in LENGTHS:
            given = inputs(length, size)
            kernels: dict[str, Callable[..., Tensor]] = {
                "kernel": F.scaled_dot_product_attention,
                "matmul": matmul_attention,
            }
            difference = (kernels["kernel"](*given) - kernels["matmul"](*given)).abs().max()
            if difference > 2e-2:
                raise SystemExit(f"{length} word pieces: the outputs differ by {difference:.2g}")

            sides: dict[str, Callable[[int], None]] = {
                name: partial(step, kernel, given) for name, kernel in kernels.items()
            }
            seconds = in_turn(sides, 40)
            ratios.append(seconds["kernel"] / seconds["matmul"])
            print(
                f"{length} word pieces, heads of {size}: kernel {25 * seconds['kernel']:.2f} ms, "
                f"matmul {25 * seconds['matmul']:.2f} ms: {ratios[-1]:.2f} x",
                flush=True,
            )
    print(f"kernel over products: {min(ratios):.2f} to {max(ratios):.2f} x")


if __name__ == "__main__":
    main()
