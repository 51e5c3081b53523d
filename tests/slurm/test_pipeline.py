"""The whole chain as dependent jobs, and the evaluation of what it left, on a real SLURM."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmrc.cli import main as lmrc
from tests.conftest import ROOT
from tests.slurm.harness import Cluster, wait_for

STEPS = ("build", "rcp", "propose", "rc", "classify", "score")


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("chain")
    for seed, (part, count) in enumerate({"train": 8, "dev": 3, "test": 4}.items()):
        assert lmrc(["data", "synth", "--docs", str(count), "--seed", str(seed), "--out", f"{folder}/{part}.json"]) == 0
    return {
        "config": ROOT / "configs/pipeline/smoke.yaml", "run": "all", "run.folder": folder,
        "data.train": folder / "train.json", "data.dev": folder / "dev.json", "data.test": folder / "test.json",
        "data.relations": folder / "train.relations.json", "cpus-per-gpu": 1, "gpus": 1, "classify.cluster.gpus": 2,
    }  # fmt: skip


@pytest.fixture(scope="module")
def chain(cluster: Cluster, options: dict[str, object]) -> tuple[Path, str]:
    """The chain's folder once all of it is done, and what the command said."""
    home = Path(str(options["run.folder"])) / "all"
    shown = cluster.launch("pipeline", options)
    # At once again: nothing is submitted twice.
    again = cluster.launch("pipeline", options).splitlines()
    assert not [line for line in again if "submitted" in line]
    wait_for("finished chain", lambda: (home / "score" / "DONE").exists(), 240.0, home / "classify")
    return home, shown


def test_the_chain_runs_as_dependent_jobs(
    cluster: Cluster, options: dict[str, object], chain: tuple[Path, str]
) -> None:
    home, shown = chain
    jobs = dict(line.split(" submitted as job ", 1) for line in shown.splitlines() if " submitted as job " in line)
    assert [name.strip() for name in jobs] == list(STEPS)
    number = {name.strip(): said.partition(" ")[0] for name, said in jobs.items()}
    after = {name.strip(): said.partition(" after ")[2] for name, said in jobs.items()}
    assert after["classify"] == f"{number['propose']}, {number['rc']}"
    assert json.loads((home / "scores.json").read_text()).keys() >= {"f1", "ign_f1"}
    assert (home / "report.html").exists()
    again = cluster.launch("pipeline", options)
    assert [line.split() for line in again.splitlines()[:-1]] == [[step, "done"] for step in STEPS]
    assert again.splitlines()[-1] == f"Report: {home}/report.html"


def test_eval_gives_what_the_chain_gave_and_repeats_nothing(cluster: Cluster, chain: tuple[Path, str]) -> None:
    home, _ = chain
    out = home / "eval-test"

    def evaluate() -> None:
        where = ("--array=0-1", "--cpus-per-task=1", f"--output={home}/eval-%A_%a.out")
        words = ("sbatch", "--parsable", *where, "slurm/eval.sh", str(home), str(home / "data" / "test"))
        array = cluster.run(*words, folder=ROOT).strip()
        wait_for("workers", lambda: array not in cluster.run("squeue", "--noheader", "--format=%F"), 180.0)
        wait_for("scores", lambda: "lmrc-score" not in cluster.run("squeue", "--noheader", "--format=%j"), 120.0)

    evaluate()
    assert (out / "scores.json").exists(), "\n".join(path.read_text() for path in home.glob("eval-*.out"))
    # The threshold and the decoding are the chain's.
    assert (out / "classify" / "predictions.json").read_bytes() == (home / "classify" / "predictions.json").read_bytes()
    assert json.loads((out / "scores.json").read_text()) == json.loads((home / "scores.json").read_text())
    assert (out / "report.html").exists()

    marks = {step: (out / step / "DONE").stat().st_mtime_ns for step in ("propose", "classify")}
    (out / "scores.json").unlink()
    evaluate()
    assert {step: (out / step / "DONE").stat().st_mtime_ns for step in marks} == marks
    assert (out / "scores.json").exists()
