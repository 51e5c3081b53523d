"""Inference on workers half of which are killed: no document is lost or written twice."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from lmrc.inference.work_units import counts
from tests.slurm.harness import MAX_ARRAY, Cluster, done, events, run_here, wait_for, wait_until_done, write_data

WORKERS = 8
KILLED = 4


def test_output_equals_one_worker_after_kills(cluster: Cluster, models: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", documents=96)

    def options(name: str) -> dict[str, Any]:
        return {
            "run": name, "run.folder": tmp_path, "corpus": data / "train", "rc": models / "rc" / "best",
            "decode.batch_size": 2, "work.docs_per_unit": 2, "work.lease_seconds": 20, "cpus-per-gpu": 1,
        }  # fmt: skip

    run_here("classify", options("alone"))
    many = tmp_path / "many"
    on_slurm = {"where": "slurm", "gpus": WORKERS, "time": 60, "sbatch": "spread-job"}
    cluster.launch("classify", options("many") | on_slurm)
    jobs = [str(event["job"]) for event in events(many, "submitted")]
    tasks = [f"{job}_{task}" for job in jobs for task in range(WORKERS // len(jobs))]
    chance = random.Random(7)
    wait_for("first unit", lambda: counts(many).done >= 1, many)
    killed = 0
    for task in chance.sample(tasks, KILLED):
        time.sleep(chance.uniform(0.0, 2.0))
        pid = cluster.worker(task)
        if pid is not None and not done(many):
            cluster.kill_process(pid)
            killed += 1
    assert killed >= KILLED // 2, "the work was done before its workers could be killed"
    wait_until_done(many)
    wait_for("end of all workers", lambda: not any("RUNNING" in cluster.state(job) for job in jobs), many)
    for name in ("predictions.json", "generations.jsonl"):
        assert (many / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert len(events(many, "finished")) == 1
    assert not (many / "units").exists()


def test_more_workers_than_max_array_size(own_cluster: Cluster, models: Path, tmp_path: Path) -> None:
    """Nine workers are two arrays if an array has at most eight tasks; one task of each runs at a time."""
    data = write_data(tmp_path / "data", documents=8)
    options = {
        "where": "slurm", "run": "many", "run.folder": tmp_path, "corpus": data / "train",
        "rcp": models / "rcp" / "best", "work.docs_per_unit": 1, "gpus": MAX_ARRAY + 1, "max-running": 1,
        "cpus-per-gpu": 1, "time": 60,
    }  # fmt: skip
    own_cluster.launch("propose", options)
    many = tmp_path / "many"
    arrays = [event["job"] for event in events(many, "submitted")]
    assert len(arrays) == 2
    scripts = [(many / "log" / f"{array}_submission.sh").read_text() for array in arrays]
    assert f"--array=0-{MAX_ARRAY - 1}%1" in scripts[0]
    assert "--array" not in scripts[1]  # the last array has a single task
    wait_until_done(many)
    for array in arrays:
        own_cluster.cancel(array)  # the other workers have nothing to do
    assert (many / "candidates" / "manifest.json").exists()
