"""Chains of jobs on a site that does not requeue (JobRequeue=0)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmrc.cli.main import main as lmrc
from tests.conftest import ROOT
from tests.slurm.harness import (
    MAX_ARRAY,
    Cluster,
    events,
    history_text,
    is_given,
    slow_steps,
    steps,
    training,
    wait_for,
    wait_until_done,
)

JOBS = 5
# SLURM performs each of the two interruptions within some seconds, which are about fifteen slow steps.
EPOCHS = 4
STEP_SECONDS = 0.15
OPTIONS = {"nodes": 1, "gpus": 2, "chain-jobs": JOBS}


@pytest.fixture(scope="module")
def chaining() -> Iterator[Cluster]:
    """Return a small cluster of its own with JobRequeue=0."""
    if is_given():
        pytest.skip("needs a cluster with JobRequeue=0 (unset SLURM_CONF)")
    own = Cluster("lmrc-norequeue", NODES="4", ACCT="none", PORT="17000", JOB_REQUEUE="0", MAX_ARRAY=str(MAX_ARRAY + 1))
    with own.used():
        yield own


def links(folder: Path) -> list[str]:
    """Return all jobs of the run's chain."""
    return [str(event["job"]) for event in events(folder, "submitted")]


def wait_for_end(cluster: Cluster, folder: Path) -> None:
    """Wait until no job of the chain is queued or running."""
    active = ("PENDING", "RUNNING", "COMPLETING")
    wait_for("end of the chain", lambda: not {*" ".join(map(cluster.state, links(folder))).split()} & {*active}, folder)


def test_each_job_resumes_the_one_before(chaining: Cluster, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "chained"
    options = training("rcp", data, folder, train__epochs=EPOCHS) | OPTIONS | {"partition": "low"}
    message = chaining.launch("rcp", options | slow_steps(tmp_path / "site", STEP_SECONDS))
    assert "the site has JobRequeue=0: a chain of 5 jobs" in message
    jobs = links(folder)
    assert len(jobs) == JOBS and ", ".join(jobs) in message

    wait_for("steps", lambda: len(steps(folder)) > 3, folder)
    status = json.loads(chaining.run(sys.executable, "-m", "lmrc.cli.main", "status", str(folder), "--json"))
    assert status[0]["state"] == "running" and status[0]["detail"].endswith("job 1 of 5 of a chain")
    with chaining.preempting() as preempt:
        preempt("n[1-2]")
        wait_for("preemption", lambda: events(folder, "preempted"), folder)
        wait_for("second job", lambda: len(events(folder, "started")) == 2, folder)
    begun = max(steps(folder))
    wait_for("more steps", lambda: max(steps(folder)) > begun + 3, folder)
    chaining.kill(jobs[1], rank=1)
    wait_until_done(folder)
    wait_for_end(chaining, folder)

    assert [event["job"] for event in events(folder, "link")] == jobs[:3]
    # SLURM may end the batch script of a preempted job before it has recorded that the next one goes on.
    handed_over = [(event["job"], event["next"]) for event in events(folder, "requeued")]
    assert handed_over[-1] == (jobs[1], jobs[2]) and handed_over[:-1] in ([], [(jobs[0], jobs[1])])
    assert [event["job"] for event in events(folder, "preempted")] == [jobs[0]]
    assert [event["job"] for event in events(folder, "died")] == [jobs[1]]
    assert steps(folder) == list(range(1, 16 * EPOCHS + 1))
    assert [chaining.state(job) for job in jobs[3:]] == ["CANCELLED", "CANCELLED"]
    assert [chaining.restarts(job) for job in jobs] == [0] * JOBS


# Runs in each task before the job.
KILLED_AT_ONCE = """
import os, signal
if os.environ.get("SLURM_PROCID") == "0":
    from lmrc.training import distributed
    distributed.init_process_group = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""


def test_chain_without_progress_ends(chaining: Cluster, data: Path, tmp_path: Path) -> None:
    folder, site = tmp_path / "idle", tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(KILLED_AT_ONCE)
    chaining.launch("rcp", training("rcp", data, folder) | OPTIONS | {"setup": f"export PYTHONPATH={site}"})
    wait_for("end", lambda: events(folder, "failed"), folder)
    wait_for_end(chaining, folder)
    jobs = links(folder)
    assert [event["job"] for event in events(folder, "died")] == jobs[:2], history_text(folder)
    (failed,) = events(folder, "failed")
    assert (failed["job"], failed["cause"]) == (jobs[2], "the last 2 jobs of the chain made no progress beyond 0")
    assert [chaining.state(job) for job in jobs[3:]] == ["CANCELLED", "CANCELLED"]


def test_cancelled_chain_stays_cancelled(chaining: Cluster, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cancelled"
    options = training("rcp", data, folder, train__epochs=1000) | OPTIONS
    chaining.launch("rcp", options)
    wait_for("step", lambda: steps(folder), folder)
    jobs = links(folder)
    assert f"scancel {' '.join(jobs)}" in chaining.launch("rcp", options, status=2)
    chaining.cancel(jobs[0])
    wait_for_end(chaining, folder)
    # The second job may have begun before the others were cancelled. It ends at once.
    assert chaining.state(jobs[1]) in ("CANCELLED", "COMPLETED")
    assert {chaining.state(job) for job in (jobs[0], *jobs[2:])} == {"CANCELLED"}
    assert len(events(folder, "started")) == 1
    assert events(folder, "cancelled")


def test_pipeline_of_chains(chaining: Cluster, tmp_path: Path) -> None:
    for seed, (part, count) in enumerate({"train": 8, "dev": 3, "test": 4}.items()):
        words = ["data", "synth", "--docs", str(count), "--seed", str(seed), "--out", f"{tmp_path}/{part}.json"]
        assert lmrc(words) == 0
    options = {
        "config": ROOT / "configs/pipeline/smoke.yaml", "run": "all", "run.folder": tmp_path,
        "data.train": tmp_path / "train.json", "data.dev": tmp_path / "dev.json", "data.test": tmp_path / "test.json",
        "data.relations": tmp_path / "train.relations.json", "cpus-per-gpu": 1, "gpus": 1, "classify.cluster.gpus": 2,
        "chain-jobs": 2, "cpu_job.chain-jobs": 2,
    }  # fmt: skip
    home = tmp_path / "all"
    chaining.launch("pipeline", options)
    again = chaining.launch("pipeline", options)
    assert "submitted" not in again
    wait_for("scores", (home / "score" / "DONE").exists, home / "classify")
    for step in ("build", "rcp", "propose", "rc", "classify", "score"):
        wait_for_end(chaining, home / step)
        # An array has a state per worker.
        first, second = ({*chaining.state(job).split()} for job in links(home / step))
        assert (step, first, second) == (step, {"COMPLETED"}, {"CANCELLED"})
