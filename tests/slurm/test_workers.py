"""Inference on workers of which half are killed: nothing is lost, nothing is written twice."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from lmrc.cluster.work.units import counts
from tests.slurm.harness import Cluster, done, events, training, wait_for, wait_until_done, write_data

WORKERS = 8
KILLED = 4


def test_output_is_that_of_one_worker_whoever_dies(cluster: Cluster, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", documents=96)
    model = tmp_path / "rc"
    cluster.launch("rc", training("rc", data, model, train__max_steps=1) | {"where": "here"})

    def options(name: str, where: str) -> dict[str, Any]:
        return {
            "where": where, "run": name, "run.folder": tmp_path, "corpus": data / "train", "rc": model / "best",
            "decode.batch_size": 2, "work.unit_documents": 2, "work.lease_seconds": 20, "cpus-per-gpu": 1,
        }  # fmt: skip

    cluster.launch("classify", options("alone", "here"))
    many = tmp_path / "many"
    cluster.launch("classify", options("many", "slurm") | {"gpus": WORKERS, "time": 60, "sbatch": "spread-job"})
    job = str(events(many, "submitted")[0]["job"])
    chance = random.Random(7)
    wait_for("first unit", lambda: counts(many).done >= 1, 120, many)
    killed = 0
    for task in chance.sample(range(WORKERS), KILLED):
        time.sleep(chance.uniform(0.0, 2.0))
        pid = cluster.worker(f"{job}_{task}")
        if pid is not None and not done(many):
            cluster.kill_process(pid)
            killed += 1
    assert killed >= KILLED // 2, "the work was done before its workers could be killed"
    wait_until_done(many)
    wait_for("end of all workers", lambda: "RUNNING" not in cluster.state(job), 120, many)
    for name in ("predictions.json", "generations.jsonl"):
        assert (many / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    assert len(events(many, "finished")) == 1
    assert not (many / "units").exists()


def test_more_workers_than_an_array_may_have(own_cluster: Cluster, tmp_path: Path) -> None:
    """A site whose arrays hold three tasks: seven workers are three arrays, of which no more than four tasks run."""
    data = write_data(tmp_path / "data", documents=8)
    model = tmp_path / "rcp"
    own_cluster.launch("rcp", training("rcp", data, model, train__max_steps=1) | {"where": "here"})
    own_cluster.up(array=4)
    try:
        options = {
            "where": "slurm", "run": "many", "run.folder": tmp_path, "corpus": data / "train", "rcp": model / "best",
            "work.unit_documents": 1, "gpus": 7, "max-running": 4, "cpus-per-gpu": 1, "time": 60,
        }  # fmt: skip
        own_cluster.launch("propose", options)
        many = tmp_path / "many"
        arrays = [event["job"] for event in events(many, "submitted")]
        assert len(arrays) == 3
        scripts = [(many / "log" / f"{array}_submission.sh").read_text() for array in arrays]
        assert ["--array=0-2%2" in script for script in scripts] == [True, True, False]
        assert "--array" not in scripts[2]  # the seventh is alone
        wait_until_done(many)
    finally:
        own_cluster.up()
    assert (many / "candidates" / "manifest.json").exists()
