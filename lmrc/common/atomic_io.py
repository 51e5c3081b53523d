"""Atomic writes: a file or folder is complete or not there, also after a crash or a power cut.

A temporary name beside the target is written and synced to disk, and then renamed.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from lmrc.common.errors import RunError


def fsync(path: Path) -> None:
    """Sync a file's content, or a folder's entries, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: str | Path, text: str) -> None:
    """Replace the file `path` by one with this text, in UTF-8. Missing parent folders are created.

    Raises:
        RunError: the file cannot be written; what it held before stays.
    """
    write_bytes(path, text.encode())


def write_bytes(path: str | Path, content: bytes) -> None:
    """Replace the file `path` by one with this content. Missing parent folders are created.

    Raises:
        RunError: the file cannot be written; what it held before stays.
    """
    with _temporary_file(Path(path)) as temporary, temporary.open("wb") as file:
        file.write(content)
        _sync(file)


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[str]]:
    """Open a UTF-8 text file that replaces `path` when the block ends, unless an exception ends it.

    Missing parent folders are created.

    Raises:
        RunError: the file cannot be written; what it held before stays.
    """
    with _temporary_file(Path(path)) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield file
        _sync(file)


@contextmanager
def replacing_folder(path: Path, keep_existing: bool = False) -> Iterator[Path]:
    """Create an empty folder that is renamed to `path` when the block ends, unless an exception ends it.

    Args:
        path: the target; its parent must exist.
        keep_existing: if `path` exists when the block ends, keep that folder and delete the new one. By default the
            new one replaces it. A process that dies between the two renames leaves the old folder under a hidden name.

    Raises:
        OSError: the folder cannot be written; `path` is as it was before.
    """
    # A random name: two processes on different hosts may have the same process id.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    temporary.mkdir()
    old = temporary.with_name(f"{temporary.name}.old")
    try:
        yield temporary
        for entry in temporary.rglob("*"):
            fsync(entry)
        fsync(temporary)
        if path.exists() and not keep_existing:
            path.rename(old)
        try:
            temporary.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            if not (keep_existing and path.is_dir()):
                raise
        fsync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _temporary_file(path: Path) -> Iterator[Path]:
    """Yield a name beside `path`; rename it to `path` when the block ends, or delete it after an exception."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise RunError(
            f"{path} cannot be written: {error.strerror or error}; free space or fix the permissions, then repeat"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync(file: IO[str] | IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
