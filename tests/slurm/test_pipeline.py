"""The pipeline as dependent jobs, and slurm/eval.sh on its models, on a real SLURM."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from lmrc.cli.main import main as lmrc
from tests.conftest import ROOT
from tests.slurm.harness import Cluster, wait_for, write_damaged_encoder

STATUS = (sys.executable, "-m", "lmrc.cli.main", "status")
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


@dataclass(frozen=True)
class Chain:
    """A finished pipeline.

    Attributes:
        home: folder of the pipeline.
        broken: jobs by step of the first submission, in which RCP has no encoder and RC is held.
        queued: output of `lmrc status` by step after RCP has failed.
        mended: output of the second submission, in which RCP has an encoder.
        waits_for: dependency of `classify` after the second submission.
    """

    home: Path
    broken: dict[str, list[str]]
    queued: dict[str, str]
    mended: str
    waits_for: str


def jobs(message: str) -> dict[str, list[str]]:
    """Return the jobs by step from the output of the pipeline command."""
    found = (re.match(r"(\w+) +(?:submitted|queued|running) as job ([\d, ]*\d)", line) for line in message.splitlines())
    return {match[1]: match[2].split(", ") for match in found if match}


@pytest.fixture(scope="module")
def chain(cluster: Cluster, options: dict[str, object]) -> Chain:
    home = Path(str(options["run.folder"])) / "all"
    damaged = write_damaged_encoder(home.parent / "damaged-encoder")
    held = {"rcp.model.encoder": damaged, "rc.cluster.sbatch": "hold"}
    broken = jobs(cluster.launch("pipeline", options | held))
    (propose,) = broken["propose"]
    wait_for("end of what follows", lambda: cluster.state(propose) == "CANCELLED", home / "rcp")
    runs = json.loads(cluster.run(*STATUS, str(home), "--json"))
    queued = {Path(run["run"]).name: f"{run['state']}: {run['detail']}" for run in runs}
    mended = cluster.launch("pipeline", options)
    # Repeated immediately: nothing is submitted twice.
    again = cluster.launch("pipeline", options).splitlines()
    assert not [line for line in again if "submitted" in line]
    (classify,) = broken["classify"]
    waits_for = cluster.run("squeue", "--noheader", "--format=%E", f"--jobs={classify}")
    cluster.run("scontrol", "release", *broken["rc"])
    wait_for("finished chain", lambda: (home / "score" / "DONE").exists(), home / "classify")
    return Chain(home, broken, queued, mended, waits_for)


def test_pipeline_runs_as_dependent_jobs(cluster: Cluster, options: dict[str, object], chain: Chain) -> None:
    home = chain.home
    assert list(chain.broken) == list(STEPS)
    assert json.loads((home / "scores.json").read_text()).keys() >= {"f1", "ign_f1"}
    assert (home / "report.html").exists()
    again = cluster.launch("pipeline", options)
    assert [line.split() for line in again.splitlines()[:-1]] == [[step, "done"] for step in STEPS]
    assert again.splitlines()[-1] == f"Report: {home}/report.html"


def test_steps_after_a_failed_one_are_reported_and_resubmitted(chain: Chain) -> None:
    assert chain.queued["rcp"].startswith("failed: ") and "the weights do not fit" in chain.queued["rcp"]
    assert chain.queued["propose"].startswith("cancelled: its dependency failed")
    assert (chain.queued["rc"], chain.queued["classify"]) == ("queued: JobHeldUser", "queued: 2 workers, Dependency")
    said = (line.split(maxsplit=1) for line in chain.mended.splitlines() if line.split(" ")[0] in STEPS)
    lines = {step: rest for step, rest in said}
    now = jobs(chain.mended)
    assert lines["build"] == "done"
    assert lines["rcp"].startswith("submitted as job") and now["rcp"] != chain.broken["rcp"]
    assert lines["propose"] == f"submitted as job {now['propose'][0]} after {now['rcp'][0]}"
    # Queued jobs depend on the new ones; otherwise `classify` would start before there are candidates.
    for step in ("rc", "classify", "score"):
        assert lines[step] == f"queued as job {chain.broken[step][0]}"
    assert now["propose"][0] in chain.waits_for and chain.broken["rc"][0] in chain.waits_for


def test_eval_equals_the_pipeline_and_repeats_nothing(cluster: Cluster, chain: Chain) -> None:
    home = chain.home
    out = home / "eval-test"

    def evaluate() -> None:
        where = ("--array=0", "--cpus-per-task=1", f"--output={home}/eval-%A_%a.out")
        words = ("sbatch", "--parsable", *where, "slurm/eval.sh", str(home), str(home / "data" / "test"))
        array = cluster.run(*words, folder=ROOT).strip()
        wait_for("workers", lambda: array not in cluster.run("squeue", "--noheader", "--format=%F"))
        wait_for("scores", lambda: "lmrc-score" not in cluster.run("squeue", "--noheader", "--format=%j"))

    evaluate()
    assert (out / "scores.json").exists(), "\n".join(path.read_text() for path in home.glob("eval-*.out"))
    # Threshold and decoding are those of the pipeline.
    assert (out / "classify" / "predictions.json").read_bytes() == (home / "classify" / "predictions.json").read_bytes()
    assert json.loads((out / "scores.json").read_text()) == json.loads((home / "scores.json").read_text())
    assert (out / "report.html").exists()

    marks = {step: (out / step / "DONE").stat().st_mtime_ns for step in ("propose", "classify")}
    (out / "scores.json").unlink()
    evaluate()
    assert {step: (out / step / "DONE").stat().st_mtime_ns for step in marks} == marks
    assert (out / "scores.json").exists()
