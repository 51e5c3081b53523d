"""Where and with what a run was made: environment.json of a run folder."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lmrc.common.project import PROJECT
from lmrc.common.threads import cpus

PACKAGES = (
    "torch",
    "deepspeed",
    "transformers",
    "peft",
    "accelerate",
    "tokenizers",
    "safetensors",
    "numpy",
    "pyarrow",
    "pydantic",
    "submitit",
    "thefuzz",
    "flash-attn",
)
# A hanging driver or file system must not keep a run from starting.
PATIENCE = 10.0


def environment() -> dict[str, Any]:
    """Return what environment.json holds, as plain JSON values; what is not known is None.

    Keys: lmrc (version), command (list of arguments), git (`commit`, `dirty`; None outside a checkout), python,
    packages (name to version), host, platform, cpus (usable by this process), threads (that torch uses in it), memory
    (bytes), gpus (name, memory in bytes, driver), slurm_job. Environment variables are not recorded, as they may hold
    secrets.
    """
    import torch

    from lmrc import __version__

    return {
        "lmrc": __version__,
        "command": list(sys.argv),
        "git": _git(PROJECT),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpus": cpus(),
        "threads": torch.get_num_threads(),
        "memory": _memory(),
        "gpus": _gpus(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _run(*command: str) -> str | None:
    """The command's output, or None where it is missing, fails or takes too long."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _git(folder: Path) -> dict[str, Any] | None:
    """The commit of the checkout at `folder`, and whether files differ from it."""
    # An installed package may lie inside the checkout of something else, whose commit says nothing about us.
    top = _run("git", "-C", str(folder), "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != folder.resolve():
        return None
    commit = _run("git", "-C", str(folder), "rev-parse", "--verify", "--quiet", "HEAD")
    changes = _run("git", "-C", str(folder), "status", "--porcelain")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError, AttributeError):
        return None


def _gpus() -> list[dict[str, Any]]:
    import torch

    if not torch.cuda.is_available():
        return []
    drivers = (_run("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or "").split()
    found = (torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count()))
    return [
        # One driver serves all GPUs of a machine.
        {"name": gpu.name, "memory": gpu.total_memory, "driver": drivers[0] if drivers else None}
        for gpu in found
    ]
