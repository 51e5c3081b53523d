"""A pipeline per seed as dependent jobs on a real SLURM."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from lmrc.cli.main import main as lmrc
from tests.conftest import ROOT
from tests.slurm.harness import Cluster, events, wait_for


def submit(cluster: Cluster, options: dict[str, object]) -> dict[str, dict[str, Any]]:
    """Run the pipeline command. Return its steps by name, such as seed66/rcp."""
    given = [f"--{name}={value}" for name, value in options.items()]
    found = json.loads(cluster.run(sys.executable, str(ROOT / "launch" / "pipeline.py"), *given, "--json"))
    return {f"{step['member']}/{step['step']}" if step["member"] else step["step"]: step for step in found["steps"]}


def test_a_failed_seed_does_not_hold_the_other(cluster: Cluster, tmp_path: Path) -> None:
    for seed, (part, count) in enumerate({"train": 8, "dev": 3, "test": 4}.items()):
        out = tmp_path / f"{part}.json"
        assert lmrc(["data", "synth", "--docs", str(count), "--seed", str(seed), "--out", str(out)]) == 0
    options: dict[str, object] = {
        "config": ROOT / "configs/pipeline/smoke.yaml", "run": "all", "run.folder": tmp_path,
        "data.train": tmp_path / "train.json", "data.dev": tmp_path / "dev.json", "data.test": tmp_path / "test.json",
        "data.relations": tmp_path / "train.relations.json", "cpus-per-gpu": 1, "gpus": 1,
        "seeds": "66,67", "at-once": 1, "against": "seed66",
    }  # fmt: skip
    home = tmp_path / "all"
    first = submit(cluster, options | {"rcp.cluster.sbatch": "hold"})
    assert {step["state"] for step in first.values()} == {"submitted"}
    jobs = {name: step["jobs"][0] for name, step in first.items()}
    waits_for = cluster.run("squeue", "--noheader", "--format=%E", f"--jobs={jobs['seed67/rcp']}")
    assert f"afterany:{jobs['seed66/score']}" in waits_for
    cluster.run("scancel", jobs["seed66/rcp"])
    cluster.run("scontrol", "release", jobs["seed67/rcp"])
    failed = home / "seed66" / "score"
    wait_for("end of the first seed", lambda: events(failed, "failed"), failed)
    assert cluster.state(jobs["seed66/propose"]) == "CANCELLED"
    wait_for("second seed", (home / "seed67" / "classify" / "DONE").exists, home / "seed67" / "rcp")
    wait_for("summary", (home / "summary" / "DONE").exists, home / "seed67" / "classify")
    # The second seed started although the first one failed.
    found = json.loads((home / "scores.json").read_text())
    assert [member["name"] for member in found["members"]] == ["seed67"]
    assert "classify failed" in found["unfinished"]["seed66"]
    assert "propose, rcp not finished" in found["unfinished"]["seed66"]

    again = submit(cluster, options)
    # RC of the first seed has finished.
    assert [name for name, step in again.items() if step["state"] == "submitted"] == [
        *(f"seed66/{step}" for step in ("rcp", "propose", "classify", "score")),
        "summary",
    ]
    wait_for("first seed", (home / "seed66" / "classify" / "DONE").exists, home / "seed66" / "rcp")
    wait_for("scores of both", lambda: len(json.loads((home / "scores.json").read_text())["members"]) == 2, home)
    wait_for("end of the summary", (home / "summary" / "DONE").exists, home / "summary")
    found = json.loads((home / "scores.json").read_text())
    assert found["unfinished"] == {} and list(found["comparisons"]) == ["seed67"]
    assert found["systems"][0]["standard_deviation"]["f1"] >= 0
    assert {step["state"] for step in submit(cluster, options).values()} == {"done"}
