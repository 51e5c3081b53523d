"""With `--group-readable` the group can read all that a run writes, although the user's umask is 077."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.harness import run_here, training, write_data

pytestmark = pytest.mark.slow


@pytest.fixture
def private() -> Iterator[None]:
    """Create files that only their owner can read, as a process of a careful user does."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def test_every_file_of_a_run_can_be_read_by_the_group(tmp_path: Path, private: None) -> None:
    data, runs = write_data(tmp_path / "data", documents=8), tmp_path / "runs"
    more = {"group-readable": True, "train__max_steps": 2}
    for stage in ("rcp", "rc"):
        run_here(stage, training(stage, data, runs / stage, **more))
    common = {"run.folder": runs, "corpus": data / "dev", "group-readable": True}
    run_here("propose", common | {"run": "propose", "rcp": runs / "rcp" / "best"})
    candidates = runs / "propose" / "candidates"
    run_here("classify", common | {"run": "classify", "rc": runs / "rc" / "best", "candidates": candidates})
    hidden = [
        str(path.relative_to(runs))
        for path in runs.rglob("*")
        if not path.stat().st_mode & (0o010 if path.is_dir() else 0o040)
    ]
    assert hidden == []
    assert {path.name for path in runs.iterdir()} == {"rcp", "rc", "propose", "classify"}
