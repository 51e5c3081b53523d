from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.harness import Cluster, is_given, missing, write_data, write_models


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = missing()
    for item in items:
        # Tests of the harness itself need no cluster.
        fixtures = {"cluster", "chaining"}.intersection(getattr(item, "fixturenames", ()))
        if item.path.parent == Path(__file__).parent and fixtures:
            item.add_marker(pytest.mark.slurm)
            # Longer than the timeouts inside the tests, which have better messages.
            item.add_marker(pytest.mark.timeout(1200))
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Return a running SLURM: that of SLURM_CONF, or one that is started for the tests."""
    cluster = Cluster()
    with cluster.used():
        yield cluster


@pytest.fixture
def own_cluster(cluster: Cluster) -> Cluster:
    """Return a cluster whose nodes and settings the test may harm."""
    if is_given():
        pytest.skip("harms nodes: only on a cluster of its own (unset SLURM_CONF)")
    return cluster


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the corpora `train` (64 documents) and `dev` (4)."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """Return a folder with the runs `rcp` and `rc`."""
    return write_models(tmp_path_factory.mktemp("models"), data)
