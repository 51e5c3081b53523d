"""Workers of slurm/eval.sh that are preempted, killed and timed out have the output of a single worker."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from lmrc.inference.work_units import Units, counts
from lmrc.monitor.run_state import inference_progress
from lmrc.runs.heartbeat import Process
from lmrc.runs.shared_fs import Files
from tests.conftest import ROOT
from tests.slurm.harness import Cluster, run_here, wait_for, write_data

PORTION, PORTIONS = 8, 4
WORK = {"docs_per_unit": 1, "lease_seconds": 600}
# A document takes some tenths of a second, so that workers are interrupted inside a unit.
OPTIONS: dict[str, dict[str, Any]] = {
    "propose": {"top_k": 50, "work": WORK},
    "classify": {"decode": {"max_new_tokens": 500}, "work": WORK},
}


@pytest.fixture
def home(models: Path, tmp_path: Path) -> Path:
    """Return a folder like that of a pipeline, with options of the inference."""
    home = tmp_path / "home"
    shutil.copytree(models, home)
    for stage, options in OPTIONS.items():
        (home / stage).mkdir()
        (home / stage / "config.yaml").write_text(yaml.safe_dump(options))
    return home


def test_workers_survive_preemption_kills_and_time_limits(own_cluster: Cluster, home: Path, tmp_path: Path) -> None:
    units = PORTION * PORTIONS + 1
    documents = write_data(tmp_path / "data", documents=units) / "train"
    out, cluster = home / "eval-train" / "classify", own_cluster

    def options(stage: str, folder: Path) -> dict[str, Any]:
        return {"config": home / stage / "config.yaml", "run": stage, "run.folder": folder, "corpus": documents}

    run_here("propose", options("propose", out.parent) | {"rcp": home / "rcp" / "best"})
    # Another worker claims all units and releases some before each interruption, so that work is always left.
    held = Units(out, Files())
    held.folder.mkdir(parents=True)
    for unit in range(units):
        elsewhere = dataclasses.replace(Process.current("1"), host="elsewhere")
        held.path("claim", unit, 1).write_bytes(elsewhere.content())

    # One node per worker, which other tests do not use.
    where = ("--array=0-1", "--partition=low", "--exclude=n[1-2]", "--exclusive", "--cpus-per-task=1")
    words = ("sbatch", "--parsable", *where, f"--output={home}/eval-%a.out", "slurm/eval.sh", str(home), str(documents))
    array = cluster.run(*words, folder=ROOT).strip()
    first, second = tasks = (f"{array}_0", f"{array}_1")

    def log_of(task: str) -> str:
        return (home / f"eval-{task.partition('_')[2]}.out").read_text()

    def wait_for_work(restart: int) -> None:
        """Wait until both workers process newly released units after this many restarts."""
        before = counts(out).done
        for unit in range(restart * PORTION, (restart + 1) * PORTION):
            held.release(unit, 1)
        wait_for(f"restart {restart}", lambda: {cluster.restarts(task) for task in tasks} == {restart}, out)
        wait_for("workers", lambda: [worker.restart for worker in workers()].count(restart) == 2, out)
        wait_for("more work done", lambda: counts(out).done > before, out)

    def workers() -> list[Process]:
        found = inference_progress(out, WORK["lease_seconds"])
        return found.workers if found else []

    def wait_until_told(task: str, times: int) -> None:
        wait_for(f"{task} told to stop", lambda: log_of(task).count("the same command goes on") == times, out)

    wait_for_work(0)
    with cluster.preempting() as preempt:
        preempt("n[3-4]")
        for task in tasks:
            wait_until_told(task, 1)
    wait_for_work(1)
    # One worker gets TERM at the end of the grace time; the other reaches its time limit.
    assert cluster.limit(second, 61)  # USR2 is sent two minutes before, but SLURM checks twice a minute
    with cluster.preempting() as preempt:
        preempt(cluster.node(first), user_signal=False)
        wait_until_told(first, 2)
    wait_until_told(second, 2)
    assert log_of(first).count("DUE TO PREEMPTION") == 1  # the first time it requeued itself
    assert "DUE TO TIME LIMIT" not in log_of(second)
    wait_for("limit", lambda: cluster.limit(second, 3600), out)
    wait_for_work(2)
    pid = cluster.worker(first)
    assert pid is not None
    cluster.kill_process(pid)
    node = cluster.node(second)
    cluster.crash(node)
    cluster.start(node)
    wait_for_work(3)
    held.release(units - 1, 1)

    candidates = out.parent / "propose" / "candidates"
    run_here("classify", options("classify", tmp_path) | {"rc": home / "rc" / "best", "candidates": candidates})
    wait_for("scores", (home / "eval-train" / "scores.json").exists, out)
    assert {cluster.state(task) for task in tasks} == {"COMPLETED"}
    for name in ("predictions.json", "generations.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "classify" / name).read_bytes()
