from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lmrc.training import precision
from lmrc.training.precision import resolve_precision


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_if_the_hardware_supports_it(monkeypatch: pytest.MonkeyPatch, native: bool, expected: str) -> None:
    monkeypatch.setattr(precision, "bf16_is_native", lambda: native)
    assert resolve_precision("auto") == expected
    # An explicit precision is never changed.
    assert (resolve_precision("bf16"), resolve_precision("fp32")) == ("bf16", "fp32")


def test_native_agrees_with_the_cpu_flags() -> None:
    from pathlib import Path

    import torch

    info = Path("/proc/cpuinfo")
    if torch.cuda.is_available() or not info.exists() or "flags" not in info.read_text():
        pytest.skip("no x86 CPU flags to compare with")
    flags = set(next(line for line in info.read_text().splitlines() if line.startswith("flags")).split())
    assert precision.bf16_is_native() == bool(flags & {"avx512_bf16", "amx_bf16"})


# Prints the growth of memory in MB during bf16 products of new shapes.
GROWTH = """
import torch
{first}

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

torch.set_num_threads(1)
weight = torch.zeros(64, 64, dtype=torch.bfloat16)
for size in range(40, 360):
    if size == 50:
        begun = resident()
    torch.zeros(size, 64, dtype=torch.bfloat16) @ weight
print(resident() - begun)
"""


@pytest.mark.skipif(not precision.bf16_is_native(), reason="kernels are compiled per shape only in native bf16")
def test_kernel_caches_are_small() -> None:
    def growth(first: str) -> float:
        names = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
        environment = {name: value for name, value in os.environ.items() if name not in names}
        code = [sys.executable, "-c", GROWTH.format(first=first)]
        return float(subprocess.run(code, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout)

    assert growth("import lmrc.training.precision") < 0.5 * growth("")
