"""`lmrc doctor --nodes 2` on a real SLURM."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.slurm.harness import Cluster


def test_two_nodes_share_a_folder(cluster: Cluster, tmp_path: Path) -> None:
    command = (sys.executable, "-m", "lmrc.cli.main", "doctor", "--nodes", "2", "--json")
    found = json.loads(cluster.run(*command, folder=tmp_path))
    message = {check["what"]: check["level"] for check in found}
    for word in (
        "see each other's files",
        "exclusive links: exactly one of 2 nodes",
        "atomic rename",
        "clocks against",
    ):
        assert [level for what, level in message.items() if word in what] == ["ok"], message
    assert list(tmp_path.iterdir()) == []


def test_unknown_partition_is_reported_with_a_remedy(cluster: Cluster, tmp_path: Path) -> None:
    command = (sys.executable, "-m", "lmrc.cli.main", "doctor", "--nodes", "2", "--partition", "nowhere", "--json")
    cluster.run(*command, folder=tmp_path, status=1)
    assert list(tmp_path.iterdir()) == []
