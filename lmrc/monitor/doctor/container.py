"""The container part of `lmrc doctor`: whether Python in a given image can run a job."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lmrc.common.check import Check, missing, ok
from lmrc.common.errors import RunError
from lmrc.config.schema import ClusterOptions
from lmrc.launcher.preflight.container import check_image, check_runtime, runtime
from lmrc.launcher.slurm.code_snapshot import take_snapshot
from lmrc.launcher.slurm.container import PYTHON, Container, image_path, is_pyxis_image, mounts

# Long enough for an image that is fetched or unpacked first.
START_SECONDS = 600
# The modules that a job begins with. The last line of the output describes them.
PROGRAM = (
    "import sys, submitit, torch, transformers, lmrc.launcher.slurm.job; "
    "print('Python', sys.version.split()[0], 'imports lmrc, torch', torch.__version__, 'and transformers', "
    "transformers.__version__)"
)


def check_given_container(image: str, partition: str | None, account: str | None, root: Path) -> Iterator[Check]:
    """Check that an image can be read, and that a job's Python starts in it if this machine has the runtime.

    Args:
        image: as in `cluster.container`.
        partition: partition of the job that starts an image of pyxis.
        account: account of that job.
        root: folder in which a copy of the code is made for the test.
    """
    readable, has_runtime = check_image(image), check_runtime(ClusterOptions(container=image))
    yield readable
    yield has_runtime
    if {readable.level, has_runtime.level} != {"ok"}:
        return
    try:
        with tempfile.TemporaryDirectory(prefix=".lmrc-doctor-", dir=root.resolve()) as folder:
            code = take_snapshot(Path(folder))
            yield _check_python(image, _command(image, code, partition, account))
    except (OSError, RunError) as error:
        yield missing(
            f"container: the code cannot be copied to {root.resolve()} ({error})", "change to the folder of your runs"
        )


def _command(image: str, code: Path, partition: str | None, account: str | None) -> list[str]:
    """Return the command that runs PROGRAM as the jobs run Python."""
    path, is_pyxis = image_path(image), is_pyxis_image(image)
    container = Container(
        image=image if path is None else str(path),
        is_pyxis=is_pyxis,
        mounts=tuple(mounts([code])),
        environment={"PYTHONPATH": str(code), "PYTHONNOUSERSITE": "1"},
        folder=str(code),
        has_gpus=False,
    )
    if is_pyxis:
        start = ["srun", "--ntasks=1", "--time=10", "--quiet", f"--immediate={START_SECONDS}", "--job-name=lmrc-doctor"]
        start += [f"--partition={partition}"] if partition else []
        start += [f"--account={account}"] if account else []
        return [*start, *container.words(), PYTHON, "-c", PROGRAM]
    # The first word is a variable of the batch script.
    return [runtime() or "apptainer", *container.words()[1:], PYTHON, "-c", PROGRAM]


def _check_python(image: str, command: list[str]) -> Check:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS + 60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return missing(f"container {image}: it does not start ({error})", f"try it yourself: {shlex.join(command)}")
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        return missing(
            f"container {image}: Python in it cannot run a job: {lines[-1] if lines else f'status {done.returncode}'}",
            "the image needs env, and python3 with the packages of constraints.txt; containers/lmrc.def makes one",
        )
    return ok(f"container {image}: {done.stdout.strip().splitlines()[-1]}")
