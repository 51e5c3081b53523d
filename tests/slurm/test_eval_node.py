"""A task of slurm/eval.sh on a bad node is requeued without the node."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.slurm.harness import Cluster, events, wait_for

# Runs in each Python of the task. The node of its first start has too little memory.
BAD_NODE = """
import os
if os.environ.get("SLURM_ARRAY_TASK_ID"):
    from pathlib import Path
    from lmrc.launcher.slurm import node_check
    bad = Path("{bad}")
    if not bad.exists():
        bad.write_text(os.environ["SLURMD_NODENAME"])
    if bad.exists() and bad.read_text() == os.environ["SLURMD_NODENAME"]:
        node_check._available_memory = lambda: 2**30
"""


def test_task_on_a_bad_node_is_requeued_without_it(cluster: Cluster, models: Path, data: Path, tmp_path: Path) -> None:
    home, site = tmp_path / "home", tmp_path / "site"
    shutil.copytree(models, home)
    site.mkdir()
    bad = site / "bad"
    (site / "sitecustomize.py").write_text(BAD_NODE.format(bad=bad))
    where = ("--array=0", "--cpus-per-task=1", f"--output={home}/eval-%a.out")
    words = ("sbatch", "--parsable", *where, "slurm/eval.sh", str(home), str(data / "dev"))
    array = cluster.run("env", f"PYTHONPATH={site}:{ROOT}", *words, folder=ROOT).strip()
    out = home / "eval-dev" / "propose"
    try:
        wait_for("result of the task", (out / "DONE").exists, out)
        check_requeue(cluster, out, f"{array}_0", bad.read_text())
    finally:
        jobs = cluster.run("squeue", "--noheader", "--format=%i %E").splitlines()
        for job in (*(line.split()[0] for line in jobs if f"afterany:{array}" in line), array):
            cluster.cancel(job)


def check_requeue(cluster: Cluster, out: Path, task: str, node: str) -> None:
    """Check that the task was requeued without the node, and what is said about it."""
    (died,) = events(out, "died")
    assert died["cause"] == f"rank 0 on {node}: node check: 1.0 GiB of host memory are available, 2.0 are needed"
    (requeued,) = events(out, "requeued")
    assert (requeued["job"], requeued["excluded"]) == (task, node)
    assert cluster.restarts(task) == 1 and cluster.node(task) != node
    assert f"ExcNodeList={node}\n" in cluster.run("scontrol", "show", "job", task).replace(" ", "\n")
    status = cluster.run(sys.executable, "-m", "lmrc.cli.main", "status", str(out))
    assert f"bad nodes   {node}: rank 0 on {node}: node check" in status
