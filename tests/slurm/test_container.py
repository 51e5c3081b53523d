"""Jobs in a container, with a stand-in for apptainer (apptainer.sh has its contract) that hides SLURM's commands."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml

from tests.conftest import ROOT
from tests.slurm.harness import (
    Cluster,
    events,
    history_text,
    steps,
    submitted,
    training,
    wait_for,
    wait_until_done,
)

# A fast machine takes fifty steps until SLURM performs an interruption.
EPOCHS = 8
# Python in the image says what it can see before it begins.
PYTHON = """#!/bin/sh
echo "in the container: scontrol=$(command -v scontrol || echo none) secret=$(cat {secret} 2>/dev/null || echo none)"
exec {python} "$@"
"""
TOOLS = ("env", "sh", "bash", "cat", "ls", "uname", "gcc", "ldconfig")


@dataclass(frozen=True)
class Image:
    """A make-believe image. `variables` are those that the stand-in needs in the batch script."""

    path: Path
    variables: dict[str, str]

    @property
    def options(self) -> dict[str, str]:
        """Return the options of a launcher."""
        exports = " ".join(f"{name}={value}" for name, value in self.variables.items())
        return {"container": str(self.path), "setup": f"export {exports}"}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    hidden = tmp_path_factory.getbasetemp()
    secret = tmp_path_factory.mktemp("secret") / "secret"
    secret.write_text("seen")
    # In a folder that is not hidden, like an image's own files.
    with TemporaryDirectory(dir=hidden.parent.parent) as folder:
        host, inside = Path(folder) / "host", Path(folder) / "inside"
        host.mkdir()
        inside.mkdir()
        (host / "apptainer").symlink_to(ROOT / "tests" / "slurm" / "apptainer.sh")
        for tool in TOOLS:
            found = shutil.which(tool)
            if found:
                (inside / tool).symlink_to(found)
        (inside / "python3").write_text(PYTHON.format(secret=secret, python=sys.executable))
        (inside / "python3").chmod(0o755)
        path = Path(folder) / "image.sif"
        path.touch()
        yield Image(path, {"PATH": f"{host}:$PATH", "LMRC_HIDDEN": str(hidden), "LMRC_IMAGE_PATH": str(inside)})


SEEN = "in the container: scontrol=none secret=none"


def test_training_in_a_container_survives_preemption(
    own_cluster: Cluster, data: Path, tmp_path: Path, image: Image
) -> None:
    folder = tmp_path / "contained"
    options = training("rcp", data, folder, gpus=2, train__epochs=EPOCHS) | image.options | {"partition": "low"}
    message = own_cluster.launch("rcp", options)
    assert f"container {image.path}" in message
    job = submitted(folder)
    wait_for("steps", lambda: len(steps(folder)) > 3, folder)
    with own_cluster.preempting() as preempt:
        preempt(own_cluster.node(job))
        wait_for("preemption", lambda: events(folder, "preempted"), folder)
        wait_for("second start", lambda: len(events(folder, "started")) == 2, folder)
    begun = max(steps(folder))
    wait_for("more steps", lambda: max(steps(folder)) > begun + 3, folder)
    own_cluster.kill(job, rank=1)
    wait_until_done(folder)
    kinds = [event["event"] for event in events(folder, "started", "preempted", "died", "finished")]
    assert kinds == ["started", "preempted", "started", "died", "started", "finished"]
    # After a death only the batch script requeues the job; after a preemption SLURM may have done so before.
    assert [event["restart"] for event in events(folder, "requeued")][-1] == 1
    assert submitted(folder) == job and own_cluster.restarts(job) == 2, history_text(folder)
    assert steps(folder) == list(range(1, 16 * EPOCHS + 1))
    for rank in range(2):
        assert (folder / "log" / f"{job}_{rank}_log.out").read_text().count(SEEN) == 3


def test_eval_runs_its_workers_in_the_container_of_the_training(
    cluster: Cluster, models: Path, data: Path, tmp_path: Path, image: Image
) -> None:
    home = tmp_path / "home"
    shutil.copytree(models, home)
    for stage in ("rcp", "rc"):
        path = home / stage / "config.yaml"
        config = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump(config | {"cluster": {"container": str(image.path)}}))
    given = [f"{name}={value}" for name, value in image.variables.items() if name != "PATH"]
    path_variable = f"PATH={image.variables['PATH'].removesuffix('$PATH')}{cluster.environment['PATH']}"
    where = ("--array=0-1", "--cpus-per-task=1", f"--output={home}/eval-%a.out", "--gpus=0")
    words = (
        "env",
        path_variable,
        *given,
        "sbatch",
        "--parsable",
        *where,
        "slurm/eval.sh",
        str(home),
        str(data / "dev"),
    )
    cluster.run(*words, folder=ROOT)
    out = home / "eval-dev"
    wait_for("scores", (out / "scores.json").exists, out / "classify")
    assert SEEN in (home / "eval-0.out").read_text()
