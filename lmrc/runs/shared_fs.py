"""The few file operations on which processes of many machines agree over one file system, NFS included.

Only `link` decides anything: it is exclusive and atomic on the server. Opening a file shows what its last writer left
(close-to-open consistency). A listing, or that a file is missing, may be some seconds old: the attribute cache.
"""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

from lmrc.common.errors import RunError

NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


class Files:
    """The operations on a real file system; tests and the simulation put delays and stale answers between."""

    def names(self, folder: Path) -> list[str]:
        """Names in `folder`, in any order; those of the last seconds may be missing."""
        return os.listdir(folder)  # noqa: PTH208 -- names, not thousands of paths

    def read(self, path: Path) -> tuple[bytes, float]:
        """Content and time of the last sign of life (server's clock, seconds). Raises FileNotFoundError."""
        with path.open("rb") as file:
            content = file.read()
            return content, os.fstat(file.fileno()).st_mtime

    def touch(self, path: Path) -> float:
        """Give a sign of life; returns its time by the server's clock. Raises FileNotFoundError."""
        handle = os.open(path, os.O_WRONLY)
        try:
            os.utime(handle)
            return os.fstat(handle).st_mtime
        finally:
            os.close(handle)

    def write(self, path: Path, content: bytes) -> None:
        """Write a file of our own, down to the disk."""
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def link(self, source: Path, target: Path) -> bool:
        """Name our file `source` also `target`; False where another has that name.

        Raises OSError (EMLINK: too many names), or RunError where the file system knows no hard links.
        """
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno in NO_LINKS:
                raise RunError(
                    f"the file system of {target.parent} refuses hard links ({error.strerror}), by which processes "
                    f"agree who does what; choose a run.folder on NFS, Lustre, GPFS, CephFS or a local disk"
                ) from None
            # NFS repeats a request whose answer was lost: it may have been done by us after all.
            if self.same(source, target):
                return True
            if isinstance(error, FileExistsError):
                return False
            raise
        return True

    def same(self, one: Path, other: Path) -> bool:
        """Whether both names are of one file."""
        try:
            with one.open("rb") as first, other.open("rb") as second:
                return os.path.samestat(os.fstat(first.fileno()), os.fstat(second.fileno()))
        except OSError:
            return False

    def replace(self, source: Path, target: Path) -> None:
        """Rename over what is there."""
        source.replace(target)

    def remove(self, path: Path) -> None:
        """Remove a name, if it is there."""
        path.unlink(missing_ok=True)

    def refresh(self, folder: Path) -> None:
        """Have the next listing come from the server: an NFS client drops its own, up to 60 s old, with a change."""
        temporary = temporary_beside(folder / "look")
        self.write(temporary, b"")
        self.remove(temporary)

    def publish(self, target: Path, content: bytes) -> bool:
        """Make `target` with this content, whole and on the disk or not at all; False where another has done so."""
        temporary = temporary_beside(target)
        try:
            self.write(temporary, content)
            return self.link(temporary, target)
        finally:
            self.remove(temporary)


def temporary_beside(path: Path) -> Path:
    """A name that no listing counts and nobody else uses."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
