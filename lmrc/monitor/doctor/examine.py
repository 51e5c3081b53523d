"""`lmrc doctor`: what this machine has and lacks, each line with its remedy."""

from __future__ import annotations

import configparser
import contextlib
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from lmrc.common.check import Check, format_check, missing, ok, warning
from lmrc.common.project import PROJECT
from lmrc.monitor.doctor.slurm import check_nodes, check_slurm

OLDEST_PYTHON = (3, 10)
NEEDED_SPACE = 20 * 2**30
INSTALL = "pip install -c constraints.txt -e ."


def examine(nodes: int | None, partition: str | None, account: str | None, as_json: bool) -> bool:
    """Print what was found, line by line. Returns whether all that is essential is there.

    With `as_json` a list of objects: level (ok, warning, missing), what, remedy ("" of what is ok).
    """
    found = []
    for check in _all(nodes, partition, account):
        found.append(check)
        if not as_json:
            click.echo(format_check(check))
    if as_json:
        click.echo(json.dumps([asdict(check) for check in found], indent=1))
    lacking = sum(1 for check in found if check.level == "missing")
    if not as_json:
        warnings = sum(1 for check in found if check.level == "warning")
        verdict = f"essential and missing: {lacking}" if lacking else "all that is essential is here"
        click.echo(f"{verdict}; warnings: {warnings}")
    return not lacking


def _all(nodes: int | None, partition: str | None, account: str | None) -> Iterator[Check]:
    yield check_python()
    yield from check_packages()
    yield from check_torch()
    yield from check_extras()
    yield check_compiler()
    yield from check_folders()
    yield from check_slurm()
    if nodes is not None:
        yield from check_nodes(nodes, partition, account, Path())


def check_python() -> Check:
    """The interpreter."""
    version = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        return missing(f"Python {version}", f"use Python {'.'.join(map(str, OLDEST_PYTHON))} or newer")
    return ok(f"Python {version} ({sys.executable})")


def _requirements(project: Path) -> list[str]:
    """Those of the checkout, as an editable install keeps the ones of its day; of an installed package its own."""
    path = project / "setup.cfg"
    if path.is_file():
        parser = configparser.ConfigParser()
        parser.read(path)
        return parser.get("options", "install_requires").split("\n")
    return importlib.metadata.requires("lmrc-suite") or []


def check_packages(project: Path = PROJECT) -> Iterator[Check]:
    """What setup.cfg asks for, and how that differs from what was tested."""
    from packaging.requirements import Requirement

    try:
        lines = [line for line in _requirements(project) if line.strip()]
    except importlib.metadata.PackageNotFoundError:
        yield warning("packages: lmrc-suite is not installed, so its requirements are not known", INSTALL)
        return
    constraints = project / "constraints.txt"
    tested = {}
    if constraints.is_file():
        pinned = (line.split("==") for line in constraints.read_text().splitlines() if "==" in line)
        tested = {name.strip().lower().replace("_", "-"): version.strip() for name, version in pinned}
    good, others = 0, []
    for needed in map(Requirement, lines):
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(needed.name)
        except importlib.metadata.PackageNotFoundError:
            yield missing(f"package {needed.name} is not installed", INSTALL)
            continue
        if not needed.specifier.contains(version, prereleases=True):
            yield missing(f"package {needed.name} {version} does not fit {needed.specifier}", INSTALL)
            continue
        good += 1
        expected = tested.get(needed.name.lower().replace("_", "-"))
        # torch's wheels tell their CUDA version after a plus.
        if expected is not None and version.partition("+")[0] != expected.partition("+")[0]:
            others.append(f"{needed.name} {version} ({expected})")
    if others:
        yield warning(f"{good} packages fit; others than the tested versions: {', '.join(others)}", INSTALL)
    else:
        yield ok(f"{good} packages, in the tested versions" if tested else f"{good} packages")


def check_torch() -> Iterator[Check]:
    """torch, its GPUs and NCCL, and DeepSpeed."""
    try:
        import torch

        from lmrc.common.environment import environment
        from lmrc.training.precision import bf16_is_native
    except (ImportError, OSError) as error:
        yield missing(f"torch does not import: {error}", INSTALL)
        return
    gpus = environment()["gpus"]
    yield ok(
        f"torch {torch.__version__}, built for {f'CUDA {torch.version.cuda}' if torch.version.cuda else 'the CPU'}"
    )
    for number, gpu in enumerate(gpus):
        says = f"GPU {number}: {gpu['name']}, {gpu['memory'] / 2**30:.0f} GiB, driver {gpu['driver'] or 'unknown'}"
        with torch.cuda.device(number):
            native = bf16_is_native()
        if native:
            yield ok(f"{says}, bf16 native")
        else:
            yield warning(f"{says}, no bf16", "none needed: trains in fp32, slower than a GPU of 2020 or later")
    if gpus:
        version = None
        if torch.distributed.is_nccl_available():
            version = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
        yield (
            ok(f"NCCL {version}")
            if version
            else missing("torch has no NCCL: GPUs cannot work together", "install a torch wheel for CUDA on Linux")
        )
    else:
        yield from _without_gpu(torch.version.cuda is not None, bf16_is_native())
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it speaks on its import, which would spoil --json
            deepspeed = importlib.import_module("deepspeed")
        yield ok(f"DeepSpeed {deepspeed.__version__}")
    except Exception as error:  # whatever its import does with compilers and drivers
        yield warning(f"DeepSpeed does not import: {error}", f"training falls back to torch without ZeRO; {INSTALL}")


def _without_gpu(built_for_cuda: bool, bf16: bool) -> Iterator[Check]:
    kind = f"the CPU {'has' if bf16 else 'has no'} native bf16"
    if shutil.which("nvidia-smi") and not built_for_cuda:
        yield warning(f"a GPU driver, but torch is built for the CPU; {kind}", "install a torch wheel for CUDA")
    elif shutil.which("sbatch"):
        yield ok(f"no GPU on this machine, as on most that submit; {kind}")
    else:
        yield warning(f"no GPU seen; {kind}", "large models need one; on a cluster ask this inside a job")


def check_extras() -> Iterator[Check]:
    """Packages that one can do without."""
    import torch

    try:
        yield ok(f"flash-attn {importlib.metadata.version('flash-attn')}")
    except importlib.metadata.PackageNotFoundError:
        says, remedy = (
            "no flash-attn: attention runs as torch's sdpa",
            "pip install -e .[flash] (needs CUDA's compiler)",
        )
        yield warning(says, remedy) if torch.cuda.is_available() else ok(f"{says}, as it must without a GPU")
    try:
        yield ok(f"bitsandbytes {importlib.metadata.version('bitsandbytes')}")
    except importlib.metadata.PackageNotFoundError:
        yield ok("no bitsandbytes: not used")


def check_compiler() -> Check:
    """DeepSpeed builds its operators when they are first used."""
    names = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    compiler = next((found for name in names if name and (found := shutil.which(name))), None)
    if compiler is None:
        return warning(
            "no C++ compiler, with which DeepSpeed builds its operators", "apt install g++, or module load gcc"
        )
    return ok(f"C++ compiler {compiler}")


def check_folders() -> Iterator[Check]:
    """Space for runs, the cache of models, the folder of compiled operators."""
    free = shutil.disk_usage(Path()).free
    says = f"{free / 2**30:.0f} GiB free in {Path().resolve()}"
    if os.access(Path(), os.W_OK):
        yield ok(says) if free > NEEDED_SPACE else warning(says, "checkpoints of large models need tens of GiB")
    else:
        yield missing(f"{Path().resolve()} cannot be written", "go where your runs are to be")
    from huggingface_hub.constants import HF_HUB_CACHE

    yield _writable("models are cached", Path(HF_HUB_CACHE), "set HF_HOME, or cluster.cache_folder")
    given = os.environ.get("TORCH_EXTENSIONS_DIR")
    if given:
        yield _writable("DeepSpeed's operators are built (TORCH_EXTENSIONS_DIR)", Path(given), "name another folder")
    elif shutil.which("sbatch"):
        yield warning(
            "TORCH_EXTENSIONS_DIR is not set: ranks of all jobs wait for one lock in your home at the first build",
            "set cluster.extensions_folder in configs/cluster/NAME.yaml to a folder of the kind of node",
        )
    else:
        yield ok("TORCH_EXTENSIONS_DIR is not set: DeepSpeed's operators are built in ~/.cache/torch_extensions")


def _writable(what: str, folder: Path, remedy: str) -> Check:
    place = folder.expanduser()
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        return missing(f"{what} in {folder}, which cannot be written", remedy)
    return ok(f"{what} in {folder}, {shutil.disk_usage(place).free / 2**30:.0f} GiB free")
