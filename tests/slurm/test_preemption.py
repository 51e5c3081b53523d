"""A training that is preempted, killed and crashed equals an undisturbed one, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slurm.harness import (
    Cluster,
    differences,
    events,
    history_text,
    slow_steps,
    steps,
    submitted,
    training,
    wait_for,
    wait_until_done,
)

# SLURM performs each of the five interruptions within some seconds, which are about fifteen slow steps.
EPOCHS = 8
STEP_SECONDS = 0.15


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, data: Path, runs: Path) -> Path:
    """Return an undisturbed run on 2 nodes with 2 tasks each."""
    folder = runs / "undisturbed"
    cluster.launch("rcp", training("rcp", data, folder, train__epochs=EPOCHS))
    wait_until_done(folder)
    assert steps(folder) == list(range(1, 16 * EPOCHS + 1))
    assert [event["event"] for event in events(folder, "started", "finished")] == ["started", "finished"]
    return folder


def wait_for_steps(cluster: Cluster, folder: Path, more: int) -> None:
    """Wait until the job has taken `more` further steps."""
    job, begin = submitted(folder), max(steps(folder), default=0)
    wait_for(f"step {begin + more}", lambda: max(steps(folder), default=0) >= begin + more, folder)
    assert cluster.state(job) == "RUNNING", history_text(folder)


def wait_for_event(folder: Path, kind: str, number: int) -> None:
    """Wait until the history has this many events of a kind."""
    wait_for(f"{kind} {number}", lambda: len(events(folder, kind)) >= number, folder)


def test_training_survives_preemption_kills_and_crashes(
    own_cluster: Cluster, data: Path, runs: Path, undisturbed: Path
) -> None:
    folder = runs / "disturbed"
    with own_cluster.preempting() as preempt:
        options = training("rcp", data, folder, train__epochs=EPOCHS)
        options |= slow_steps(runs / "site", STEP_SECONDS)
        own_cluster.launch("rcp", options | {"partition": "low", "exclude": "n[3-4]"})
        job = submitted(folder)
        for number, user_signal in ((1, True), (2, False)):
            wait_for_steps(own_cluster, folder, 5)
            preempt("n[1-2]", user_signal)
            wait_for_event(folder, "preempted", number)
            wait_for_event(folder, "started", number + 1)
    causes = [event["cause"].partition(" at step ")[0] for event in events(folder, "preempted")]
    assert causes == ["SIGUSR2", "SIGTERM"]

    wait_for_steps(own_cluster, folder, 5)
    own_cluster.kill(job, rank=3)
    wait_for_event(folder, "started", 4)
    wait_for_steps(own_cluster, folder, 5)
    own_cluster.kill(job, rank=0)
    wait_for_event(folder, "started", 5)
    died = events(folder, "died")
    assert len(died) == 2
    assert "rank 3 on n2 went silent" in died[0]["cause"] or "signal 9" in died[0]["cause"], died

    wait_for_steps(own_cluster, folder, 5)
    own_cluster.crash("n1")
    own_cluster.start("n1")
    wait_for_event(folder, "started", 6)
    wait_until_done(folder)
    assert differences(undisturbed, folder) == []
    assert submitted(folder) == job  # submitted once: it requeued itself
