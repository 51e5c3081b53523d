from __future__ import annotations

import pytest

from lmrc.engine import precision
from lmrc.engine.precision import settle


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_where_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch, native: bool, expected: str) -> None:
    monkeypatch.setattr(precision, "bf16_is_native", lambda: native)
    assert settle("auto") == expected
    # What a user asked for is never changed.
    assert (settle("bf16"), settle("fp32")) == ("bf16", "fp32")


def test_native_agrees_with_the_cpu_flags() -> None:
    from pathlib import Path

    import torch

    info = Path("/proc/cpuinfo")
    if torch.cuda.is_available() or not info.exists() or "flags" not in info.read_text():
        pytest.skip("no x86 CPU flags to compare with")
    flags = set(next(line for line in info.read_text().splitlines() if line.startswith("flags")).split())
    assert precision.bf16_is_native() == bool(flags & {"avx512_bf16", "amx_bf16"})
