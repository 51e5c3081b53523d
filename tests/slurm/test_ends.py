"""Jobs requeue themselves at the time limit, but not after scancel or a program error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.slurm.harness import (
    Cluster,
    events,
    slow_steps,
    steps,
    submitted,
    training,
    wait_for,
    wait_until_done,
    write_damaged_encoder,
)


@contextmanager
def cancelled_at_the_end(cluster: Cluster, job: str) -> Iterator[str]:
    """Cancel the job, which would run for hours, at the end of the block, even if the test fails."""
    try:
        yield job
    finally:
        cluster.cancel(job)


def test_time_limit_requeues_the_job(cluster: Cluster, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "timed"
    options = training("rcp", data, folder, nodes=1, gpus=2, train__epochs=1000)
    waiting = slow_steps(tmp_path / "site", 0.5)
    cluster.launch("rcp", options | waiting | {"signal-delay": 120, "max-requeues": 1})
    with cancelled_at_the_end(cluster, submitted(folder)) as job:
        for slot in (1, 2):
            done = max(steps(folder), default=0)
            wait_for("step", lambda done=done: max(steps(folder), default=0) > done, folder)  # type: ignore[misc]
            # SLURM checks time limits twice a minute, and sends the signal the requested time before.
            assert cluster.limit(job, 61)
            wait_for("warning", lambda slot=slot: len(events(folder, "preempted")) == slot, folder)  # type: ignore[misc]
            if slot == 1:
                wait_for("longer limit", lambda: cluster.limit(job, 3600), folder)
        wait_for("last word", lambda: events(folder, "failed"), folder)
    assert [event["event"] for event in events(folder, "started", "preempted", "requeued", "failed")] == [
        *("started", "preempted", "requeued"),
        *("started", "preempted", "failed"),
    ]
    assert "the limit of cluster.max_requeues" in events(folder, "failed")[0]["cause"]
    assert all("SIGUSR2" in event["cause"] for event in events(folder, "preempted"))
    assert steps(folder) == list(range(1, len(steps(folder)) + 1))


def test_cancelled_job_stays_cancelled(cluster: Cluster, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cancelled"
    options = training("rcp", data, folder, nodes=1, gpus=1, train__epochs=1000)
    cluster.launch("rcp", options)
    with cancelled_at_the_end(cluster, submitted(folder)) as job:
        wait_for("step", lambda: steps(folder), folder)
        # The run is not submitted again while it is running.
        assert f"is already running as SLURM job {job}" in cluster.launch("rcp", options, status=2)
        # It cannot be started on this machine either, because its lease is held.
        here = training("rcp", data, folder, train__epochs=1000) | {"where": "here"}
        assert "is in use" in cluster.launch("rcp", here, status=2)
    wait_for("end of the job", lambda: cluster.state(job) == "CANCELLED", folder)
    assert events(folder, "requeued") == []
    assert len(events(folder, "started")) == 1


def test_program_error_is_not_repeated(cluster: Cluster, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "faulty"
    damaged = write_damaged_encoder(tmp_path / "damaged-encoder")
    options = training("rcp", data, folder, nodes=1, gpus=1) | {"model.encoder": damaged}
    cluster.launch("rcp", options)
    wait_for("failure", lambda: events(folder, "failed"), folder)
    assert "the weights do not fit" in events(folder, "failed")[0]["cause"]
    assert events(folder, "requeued") == []


# Runs in each task before the job. Rank 1 of the first start has a GPU that breaks at the second step.
BROKEN_GPU = """
import os
if os.environ.get("SLURM_PROCID") == "1" and os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
    import torch
    from lmrc.training.sampler import DeterministicSampler
    batch = DeterministicSampler.batch
    def broken(self, step):
        if step == 1:
            raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")
        return batch(self, step)
    DeterministicSampler.batch = broken
"""


def test_hardware_error_requeues_the_job_without_the_node(cluster: Cluster, data: Path, tmp_path: Path) -> None:
    folder, site = tmp_path / "broken", tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(BROKEN_GPU)
    options = training("rcp", data, folder, nodes=1, gpus=2, train__epochs=1000)
    cluster.launch("rcp", options | {"setup": f"export PYTHONPATH={site}"})
    with cancelled_at_the_end(cluster, submitted(folder)) as job:
        wait_for("start", lambda: events(folder, "started"), folder)
        first = cluster.node(job)
        wait_for("second start", lambda: len(events(folder, "started")) == 2, folder)
        assert cluster.node(job) != first
        assert f"ExcNodeList={first}\n" in cluster.run("scontrol", "show", "job", job).replace(" ", "\n")
        (died,), (requeued,) = events(folder, "died"), events(folder, "requeued")
        assert "rank 1 on " in died["cause"] and "uncorrectable ECC error" in died["cause"]
        assert requeued["excluded"] == first
        wait_for("steps after it", lambda: max(steps(folder), default=0) > 2, folder)


def test_killed_rank_is_named_by_rank_and_host(cluster: Cluster, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    cluster.launch("rcp", training("rcp", data, folder, nodes=2, gpus=4, train__epochs=1000))
    with cancelled_at_the_end(cluster, submitted(folder)) as job:
        wait_for("step", lambda: steps(folder), folder)
        cluster.kill(job, 3)
        wait_for("death", lambda: events(folder, "died"), folder)
    # Either srun's message names it, or another rank that noticed first.
    assert events(folder, "died")[0]["cause"].startswith("rank 3 on ")


# Runs in each task before the job. The node of rank 0's first start has too little memory.
BAD_NODE = """
import os
if os.environ.get("SLURM_PROCID"):
    from pathlib import Path
    from lmrc.launcher.slurm import node_check
    bad = Path("{first}")
    if os.environ["SLURM_PROCID"] == "0" and not bad.exists():
        bad.write_text(os.environ["SLURMD_NODENAME"])
    if bad.exists() and bad.read_text() == os.environ["SLURMD_NODENAME"]:
        node_check._available_memory = lambda: 2**30
"""


def test_node_that_fails_its_check_is_left_out(cluster: Cluster, data: Path, tmp_path: Path) -> None:
    folder, site = tmp_path / "checked", tmp_path / "site"
    site.mkdir()
    first = site / "first"
    (site / "sitecustomize.py").write_text(BAD_NODE.format(first=first))
    options = training("rcp", data, folder, nodes=1, gpus=2, train__max_steps=4)
    cluster.launch("rcp", options | {"setup": f"export PYTHONPATH={site}"})
    with cancelled_at_the_end(cluster, submitted(folder)):
        wait_until_done(folder)
    (died,), (requeued,) = events(folder, "died"), events(folder, "requeued")
    bad = first.read_text()
    assert died["cause"] == f"rank 0 on {bad}: node check: 1.0 GiB of host memory are available, 2.0 are needed"
    assert died["broken_nodes"] == requeued["excluded"] == bad
    # The node is found before the ranks meet, so no start is recorded on it.
    assert [bad in event["hosts"] for event in events(folder, "started")] == [False]
    status = cluster.run(sys.executable, "-m", "lmrc.cli.main", "status", str(folder))
    assert f"bad nodes   {bad}: rank 0 on {bad}: node check" in status
