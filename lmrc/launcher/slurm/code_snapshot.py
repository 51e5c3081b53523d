"""Code snapshot in the run folder, so that editing the checkout does not change a queued job."""

from __future__ import annotations

import contextlib
import errno
import shutil
import uuid
from pathlib import Path

from lmrc.common.errors import RunError
from lmrc.common.project import PROJECT

PARTS = ("lmrc", "configs", "launch", "slurm")


def take_snapshot(run_folder: Path) -> Path:
    """Copy the code to `run_folder`/code, replacing an older copy. Return the absolute path of the copy.

    Raises:
        RunError: the copy cannot be written.
    """
    final, own = run_folder.resolve() / "code", uuid.uuid4().hex[:12]
    new, old = final.with_name(f".code.{own}.new"), final.with_name(f".code.{own}.old")
    try:
        for part in PARTS:
            source = PROJECT / part
            if source.is_dir():  # an installed package has only lmrc
                shutil.copytree(source, new / part, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        _exchange(new, final, old)
    except OSError as error:
        raise RunError(f"cannot copy the code to {final}: {_reason(error)}; free space, then repeat") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return final


def _exchange(new: Path, final: Path, old: Path) -> None:
    """Rename `new` to `final`, and what is there to `old`."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            final.rename(old)
        try:
            new.rename(final)
            return
        except OSError as error:
            # A launch from another checkout was faster.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        shutil.rmtree(old, ignore_errors=True)


def _reason(error: OSError) -> str:
    """Return the cause of an error. copytree goes on after an error and then reports all files."""
    return str(error.args[0][0][2]) if isinstance(error, shutil.Error) else str(error.strerror)
