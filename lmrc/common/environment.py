"""Content of environment.json in a run folder: versions, hardware and command of a run."""

from __future__ import annotations

import os
import platform
import pwd
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
# Seconds. A hanging driver or file system must not keep a run from starting.
COMMAND_TIMEOUT = 10.0


def environment() -> dict[str, Any]:
    """Return the content of environment.json as JSON values; None for unknown values.

    Keys: lmrc (version), user, command (list of arguments), git (`commit`, `dirty`; None outside a checkout), python,
    packages (name to version), host, platform, cpus (usable by this process), threads (of torch in this process),
    memory (bytes), gpus (name, memory in bytes, driver), slurm_job. Environment variables are not recorded, because
    they may contain secrets.
    """
    import torch

    from lmrc import __version__

    return {
        "lmrc": __version__,
        "user": user_name(),
        "command": list(sys.argv),
        "git": _git(PROJECT),
        "python": platform.python_version(),
        "packages": {name: installed for name in PACKAGES if (installed := _version(name))},
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpus": cpus(),
        "threads": torch.get_num_threads(),
        "memory": _memory(),
        "gpus": _gpus(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


def user_name(number: int | None = None) -> str:
    """Return the name of a user, by default of this one; the number if it has no name, as in some containers."""
    number = os.geteuid() if number is None else number
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _run(*command: str) -> str | None:
    """Return the command's output; None if the command is missing, fails or times out."""
    if shutil.which(command[0]) is None:
        return None
    try:
        completed = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return completed.stdout.strip()


def _git(folder: Path) -> dict[str, Any] | None:
    """Return the commit of the checkout at `folder`, and whether it has uncommitted changes."""
    # An installed package may lie inside another project's checkout, whose commit is not ours.
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
    gpus = (torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count()))
    return [
        # All GPUs of a machine have the same driver.
        {"name": gpu.name, "memory": gpu.total_memory, "driver": drivers[0] if drivers else None}
        for gpu in gpus
    ]
