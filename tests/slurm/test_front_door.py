"""The three commands of the README, typed by a new user, on nodes with eight GPUs."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path

import yaml

from tests.conftest import ROOT
from tests.slurm.harness import Cluster, events, history_text, wait_for, write_data

# As in the README, except for the models: the paper's are not on this machine.
RCP = "python launch/rcp.py --nodes 1 --model.encoder embedded:tiny-encoder"
RC = "python launch/rc.py --gpus 8 --model.base embedded:tiny-llm"
EVAL = "sbatch slurm/eval.sh"


def checkout(folder: Path) -> Path:
    """Make a fresh clone after `make`, with the parts that the commands need."""
    for part in ("lmrc", "launch", "configs", "slurm"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def type_in(cluster: Cluster, folder: Path, command: str, status: int = 0) -> str:
    """Run a command in this folder. Return its output."""
    program, *words = shlex.split(command)
    return cluster.run(sys.executable if program == "python" else program, *words, status=status, folder=folder)


def test_three_commands_of_the_readme(cluster: Cluster, tmp_path: Path) -> None:
    folder = checkout(tmp_path / "lmrc-suite")

    # Without data and models each command fails immediately, and nothing is queued.
    assert "lmrc data download docred" in type_in(cluster, folder, RCP, status=2)
    assert not (folder / "runs").exists()
    job = type_in(cluster, folder, EVAL).split()[-1]
    log = folder / f"slurm-{job}_0.out"
    wait_for("an answer of eval.sh", lambda: log.exists() and "Error:" in log.read_text())
    assert log.read_text().count("\n") == 1 and "launch/rcp.py" in log.read_text()
    wait_for("end of all its tasks", lambda: cluster.state(job) == "" or "RUNNING" not in cluster.state(job))

    write_data(folder / "data" / "docred", documents=12)
    for stage, command in (("rcp", RCP), ("rc", RC)):
        message = type_in(cluster, folder, command)
        assert "8 examples per optimizer step, more than train.batch_size 4" in message
        assert "no longer the paper's batch" in message
        submitted = events(folder / "runs" / stage, "submitted")[-1]["job"]
        script = (folder / "runs" / stage / "log" / f"{submitted}_submission.sh").read_text()
        assert "#SBATCH --nodes=1\n" in script and "#SBATCH --ntasks-per-node=8\n" in script
        assert "#SBATCH --gpus-per-node=8\n" in script
    for stage in ("rcp", "rc"):
        run = folder / "runs" / stage
        wait_for(f"end of {stage}", lambda run=run: (run / "DONE").exists() or events(run, "failed"), run)
        assert (run / "DONE").exists(), history_text(run)
        assert (run / "config.yaml").read_text().startswith("# 8 examples per optimizer step")
        assert yaml.safe_load((run / "config.yaml").read_text())["train"]["global_batch_size"] == 8
        assert "no longer the paper's batch" in (run / "best" / "README.md").read_text()

    type_in(cluster, folder, EVAL)
    out = folder / "runs" / "eval-dev"
    wait_for("scores", (out / "scores.json").exists, out / "classify")
    scores = json.loads((out / "scores.json").read_text())
    assert scores["gold"] > 0
    assert (out / "report.html").exists()
