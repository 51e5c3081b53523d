from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from tests.slurm.harness import Cluster, is_given, missing, write_data, write_models

# A process takes one of these whole; they last about as long.
GROUPS = (("preemption", "kill", "doctor"), ("eval", "workers"), ("pipeline", "ends"))


class Groups(LoadFileScheduling):
    """A file's tests in one process, and those of a group's files."""

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        name = Path(file).stem.removeprefix("test_")
        return next((names[0] for names in GROUPS if name in names), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    return Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = missing()
    for item in items:
        # Some tests of the tests' own tools need no cluster.
        if item.path.parent == Path(__file__).parent and "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slurm)
            # Each wait in them has its own, which says what did not come.
            item.add_marker(pytest.mark.timeout(1200))
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A SLURM that runs: the site's where SLURM_CONF names it, else one that is started here and ended afterwards."""
    cluster = Cluster()
    with cluster.used():
        yield cluster


@pytest.fixture
def own_cluster(cluster: Cluster) -> Cluster:
    """A cluster whose nodes and settings the test may harm."""
    if is_given():
        pytest.skip("harms nodes: only on a cluster of its own (unset SLURM_CONF)")
    return cluster


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the corpora `train` (64 documents) and `dev` (4)."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A folder with the runs `rcp` and `rc`."""
    return write_models(tmp_path_factory.mktemp("models"), data)
