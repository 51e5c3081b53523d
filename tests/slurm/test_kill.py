from __future__ import annotations

from pathlib import Path

from tests.slurm.harness import Cluster, write_data
from tests.slurm.kill import check


def test_killed_trainings_end_as_if_nothing_had_happened(cluster: Cluster, tmp_path: Path) -> None:
    """A short one of `python tests/slurm/kill.py`, which goes through both stages and all ZeRO stages."""
    write_data(tmp_path / "data", documents=32)
    figures = check(cluster, [("rc", 2)], kills=1, seed=1, folder=tmp_path)
    assert figures["differences"] == {"rc, ZeRO 2": []}
    assert figures["kills"] >= 1
