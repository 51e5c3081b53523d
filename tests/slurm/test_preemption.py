"""A training through all that a cluster does to it: its outcome is that of one left alone, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slurm.harness import (
    Cluster,
    differences,
    events,
    history_text,
    steps,
    submitted,
    training,
    wait_for,
    wait_until_done,
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, data: Path, runs: Path) -> Path:
    """A run of 2 nodes x 2 tasks to its end."""
    folder = runs / "undisturbed"
    cluster.launch("rcp", training("rcp", data, folder))
    wait_until_done(folder)
    assert steps(folder) == list(range(1, 65))
    assert [event["event"] for event in events(folder, "started", "finished")] == ["started", "finished"]
    return folder


def wait_for_steps(cluster: Cluster, folder: Path, more: int) -> None:
    """Until the job has made `more` steps beyond those it has."""
    job, begin = submitted(folder), max(steps(folder), default=0)
    wait_for(f"step {begin + more}", lambda: max(steps(folder), default=0) >= begin + more, 120, folder)
    assert cluster.state(job) == "RUNNING", history_text(folder)


def wait_for_start(folder: Path, number: int) -> None:
    """Until the job has started this often."""
    wait_for(f"start {number}", lambda: len(events(folder, "started")) >= number, 150, folder)


def test_a_training_survives_all_that_befalls_it(
    own_cluster: Cluster, data: Path, runs: Path, undisturbed: Path
) -> None:
    folder = runs / "disturbed"
    own_cluster.launch("rcp", training("rcp", data, folder))
    job = submitted(folder)

    wait_for_steps(own_cluster, folder, 5)
    own_cluster.preempt("n[1-4]")
    wait_for_start(folder, 2)
    preempted = events(folder, "preempted")
    assert len(preempted) == 1 and preempted[0]["cause"].startswith("SIGUSR2 at step "), preempted

    wait_for_steps(own_cluster, folder, 5)
    own_cluster.kill(job, rank=3)
    wait_for_start(folder, 3)
    wait_for_steps(own_cluster, folder, 5)
    own_cluster.kill(job, rank=0)
    wait_for_start(folder, 4)
    died = events(folder, "died")
    assert len(died) == 2
    assert "rank 3 on n2 went silent" in died[0]["cause"] or "signal 9" in died[0]["cause"], died

    wait_for_steps(own_cluster, folder, 5)
    own_cluster.crash("n1")
    try:
        wait_for_start(folder, 5)
    finally:
        own_cluster.start("n1")
    wait_until_done(folder)
    assert differences(undisturbed, folder) == []
    assert submitted(folder) == job  # one submission: it came back by itself


def test_a_site_that_only_terminates(own_cluster: Cluster, data: Path, runs: Path, undisturbed: Path) -> None:
    folder = runs / "terminated"
    own_cluster.up(user_signal=False)
    try:
        own_cluster.launch("rcp", training("rcp", data, folder))
        wait_for_steps(own_cluster, folder, 5)
        own_cluster.preempt("n[1-4]")
        wait_for_start(folder, 2)
    finally:
        own_cluster.up()
    assert events(folder, "preempted")[0]["cause"].startswith("SIGTERM at step ")
    wait_until_done(folder)
    assert differences(undisturbed, folder) == []


def test_the_time_limit_is_no_end(cluster: Cluster, data: Path, runs: Path) -> None:
    folder = runs / "timed"
    # SLURM's shortest limit is a minute; its warning comes up to half a minute early.
    options = training("rcp", data, folder, nodes=1, gpus=2, time=1, train__epochs=1000)
    cluster.launch("rcp", options | {"signal-delay": 30, "max-requeues": 1})
    wait_for("end of the second slot", lambda: events(folder, "failed"), 240, folder)
    assert [event["event"] for event in events(folder, "started", "preempted", "requeued", "failed")] == [
        *("started", "preempted", "requeued"),
        *("started", "preempted", "failed"),
    ]
    assert "as often as cluster.max_requeues allows" in events(folder, "failed")[0]["cause"]
    assert all("SIGUSR2" in event["cause"] for event in events(folder, "preempted"))
    assert steps(folder) == list(range(1, len(steps(folder)) + 1))


def test_a_cancelled_job_stays_cancelled(cluster: Cluster, data: Path, runs: Path) -> None:
    folder = runs / "cancelled"
    cluster.launch("rcp", training("rcp", data, folder, nodes=1, gpus=2, train__epochs=1000))
    wait_for_steps(cluster, folder, 2)
    job = submitted(folder)
    # While it lives, the run is not submitted again.
    refusal = cluster.launch("rcp", training("rcp", data, folder, nodes=1, gpus=2, train__epochs=1000), status=2)
    assert f"is running as SLURM job {job} already" in refusal
    # Nor started beside it by hand: its lease is held.
    here = training("rcp", data, folder, train__epochs=1000) | {"where": "here"}
    assert "is in use" in cluster.launch("rcp", here, status=2)
    cluster.run("scancel", job)
    wait_for("end of the job", lambda: cluster.state(job) == "CANCELLED", 60, folder)
    assert events(folder, "requeued") == []
    assert len(events(folder, "started")) == 1


def test_a_fault_of_its_own_is_not_repeated(cluster: Cluster, data: Path, runs: Path) -> None:
    folder = runs / "faulty"
    # A base that does not exist is found when the job starts.
    options = training("rcp", data, folder, nodes=1, gpus=2) | {"model.encoder": folder / "no-encoder"}
    cluster.launch("rcp", options)
    wait_for("failure", lambda: events(folder, "failed"), 120, folder)
    assert "no-encoder" in events(folder, "failed")[0]["cause"]
    assert events(folder, "requeued") == []
