"""Fixtures of the tests of `lmrc status` and `lmrc doctor`."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmrc.launcher.slurm import commands as slurm
from tests.monitor.site import make


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make(tmp_path / "runs" / "a")


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "is_available", lambda: False)
