"""Ranks share one copy of the model per node, a full disk falls back, and the use of the hardware is recorded."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.disk import small_disk
from tests.slurm.harness import Cluster, differences, steps, training, wait_until_done

# Runs in each rank: it counts as one on a GPU, and a figure of the last minute is one of the last tenth of a second.
GPUS = """
import os
if os.environ.get("SLURM_STEP_ID"):
    from dataclasses import replace
    from lmrc.training import measured_use
    from lmrc.usage import meter
    meter.SECONDS_BETWEEN_WINDOWS = 0.1
    make = measured_use.make_meter
    def make_meter(world, *given):
        made = make(world, *given)
        made._base = replace(made._base, gpus=world.size)
        return made
    measured_use.make_meter = make_meter
"""


@pytest.fixture
def options(data: Path, tmp_path: Path) -> dict[str, Any]:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(GPUS)
    # Verbose, because other ranks than the first do not log a copy otherwise.
    more = {"gpu-hour-price": 2.5, "run.verbose": True, "setup": f"export PYTHONPATH={site} LAB={tmp_path}"}
    return training("rcp", data, tmp_path / "run", nodes=1, gpus=2, train__epochs=1) | more


def logs(run: Path) -> str:
    return "\n".join(path.read_text() for path in sorted((run / "log").glob("*_log.*")))


def test_ranks_share_a_copy_and_a_full_disk_falls_back(
    own_cluster: Cluster, options: dict[str, Any], tmp_path: Path
) -> None:
    staged, full = tmp_path / "staged", tmp_path / "full"
    with small_disk(tmp_path / "small", 1) as disk:
        disk.fill(leave=65536)
        for run, folder in ((staged, "$LAB/disk"), (full, "$LAB/small")):
            own_cluster.launch("rcp", options | {"run": run.name, "stage-base": folder})
        for run in (staged, full):
            wait_until_done(run)
    copies = [path for path in (tmp_path / "disk").glob("*/*") if path.is_dir()]
    assert len(copies) == 1 and (copies[0] / "model.safetensors").exists()
    assert logs(staged).count("GB copied from") == 1 and "is not copied" not in logs(staged)
    assert logs(full).count(f"is not copied to {tmp_path}/small") == 1 and "GB needed" in logs(full)
    assert differences(staged, full) == []  # both have read the same weights
    check_use(own_cluster, staged)


def check_use(cluster: Cluster, run: Path) -> None:
    """Check what DONE, metrics.jsonl and `lmrc status` say about the use of two GPUs and its price."""
    use = json.loads((run / "DONE").read_text())["use"]
    assert use["gpu_hours"] > 0 and use["price"] == pytest.approx(2.5 * use["gpu_hours"], rel=1e-3)
    assert use["documents_per_second_and_gpu"] == pytest.approx(use["documents_per_second"] / 2, rel=1e-3)
    assert use["shares"]["start"] > 0 and use["shares"]["checkpoint"] > 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    windows = [row for row in rows if any(name.startswith("use_") for name in row)]
    assert windows and all(
        row["use_documents_per_second"] > 0 and 0 < row["step"] <= max(steps(run)) for row in windows
    )
    command = (sys.executable, "-m", "lmrc.cli.main", "status", str(run))
    (status,) = json.loads(cluster.run(*command, "--json"))
    assert status["use"] == use
    assert f"GPU-hours, price {use['price']:.2f}" in cluster.run(*command)
