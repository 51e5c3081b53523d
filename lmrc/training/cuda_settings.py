"""Settings of CUDA and of torch's algorithms that must be made before CUDA starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.deterministic


def use_expandable_segments() -> None:
    """Let torch's allocator grow its segments, because lengths vary from step to step and would fragment the memory.

    Settings of the user's own are kept. vLLM cannot share such segments between processes.
    """
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")


@contextmanager
def algorithms(deterministic: bool) -> Iterator[None]:
    """Use deterministic algorithms only, if asked to. An operation that has none then raises RuntimeError.

    On a CPU all operations of a training are deterministic anyway.
    """
    if not deterministic:
        yield
        return
    # cuBLAS reads it when CUDA starts. Its default workspaces depend on the streams.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    filling: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), filling.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    # No operation of ours reads uninitialized memory, and filling it takes time.
    filling.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        filling.fill_uninitialized_memory = before[1]
