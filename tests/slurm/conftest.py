from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.harness import Cluster, missing, write_data


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = missing()
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.slurm)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A SLURM that runs: the site's where SLURM_CONF names it, else one that is started here and ended afterwards."""
    cluster = Cluster()
    if os.environ.get("SLURM_CONF"):
        yield cluster
        return
    cluster.up()
    try:
        yield cluster
    finally:
        cluster.down()


@pytest.fixture
def own_cluster(cluster: Cluster) -> Cluster:
    """A cluster whose nodes and settings the test may harm."""
    if os.environ.get("SLURM_CONF"):
        pytest.skip("harms nodes: only on a cluster of its own (unset SLURM_CONF)")
    return cluster


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the corpora `train` (64 documents) and `dev` (4)."""
    return write_data(tmp_path_factory.mktemp("data"))
