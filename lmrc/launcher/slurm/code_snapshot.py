"""Code snapshot in the run folder, so that editing the checkout does not change a queued job."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lmrc.common.errors import RunError
from lmrc.common.project import PROJECT

PARTS = ("lmrc", "configs", "launch", "slurm")


def take_snapshot(run_folder: Path) -> Path:
    """Copy the code to `run_folder`/code, replacing an older copy. Return the absolute path of the copy.

    Raises:
        RunError: the copy cannot be written.
    """
    final = run_folder.resolve() / "code"
    new, old = final.with_name(f".code.{os.getpid()}.new"), final.with_name(f".code.{os.getpid()}.old")
    try:
        for part in PARTS:
            source = PROJECT / part
            if source.is_dir():  # an installed package has only lmrc
                shutil.copytree(source, new / part, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        if final.exists():
            final.rename(old)
        new.rename(final)
    except OSError as error:
        raise RunError(f"cannot copy the code to {final}: {error.strerror}; free space, then repeat") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return final
