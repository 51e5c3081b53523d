"""File operations that coordinate processes of several hosts over one file system, including NFS.

Only `link` decides races: it is exclusive and atomic on the server. Reading a file returns what its last writer left
(close-to-open consistency). A directory listing, or the absence of a file, may be seconds old (attribute cache).
"""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

from lmrc.common.errors import RunError

# Errors of file systems without hard links.
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


class Files:
    """The operations on a real file system. Tests and the simulation override them with delays and stale results."""

    def names(self, folder: Path) -> list[str]:
        """Return the names in `folder`, unordered. Names of the last seconds may be missing."""
        return os.listdir(folder)  # noqa: PTH208 -- names, not thousands of paths

    def read(self, path: Path) -> tuple[bytes, float]:
        """Return the content and the time of the last heartbeat (server clock, in seconds).

        Raises:
            FileNotFoundError: there is no such file.
        """
        with path.open("rb") as file:
            content = file.read()
            return content, os.fstat(file.fileno()).st_mtime

    def touch(self, path: Path) -> float:
        """Write a heartbeat and return its time (server clock, in seconds).

        Raises:
            FileNotFoundError: there is no such file.
        """
        handle = os.open(path, os.O_WRONLY)
        try:
            os.utime(handle)
            return os.fstat(handle).st_mtime
        finally:
            os.close(handle)

    def write(self, path: Path, content: bytes) -> None:
        """Write a file that no other process writes, and sync it to disk."""
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def link(self, source: Path, target: Path) -> bool:
        """Link our file `source` to the name `target`. Return False if another process has taken that name.

        Raises:
            RunError: the file system has no hard links.
            OSError: the link failed otherwise, such as EMLINK (too many links).
        """
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno in NO_LINKS:
                raise RunError(
                    f"the file system of {target.parent} has no hard links ({error.strerror}), which processes need to "
                    f"coordinate; choose a run.folder on NFS, Lustre, GPFS, CephFS or a local disk"
                ) from None
            # NFS repeats a request if its reply was lost: the link may be ours.
            if self.same(source, target):
                return True
            if isinstance(error, FileExistsError):
                return False
            raise
        return True

    def same(self, first: Path, second: Path) -> bool:
        """Return True if both names are links to one file."""
        try:
            with first.open("rb") as one, second.open("rb") as other:
                return os.path.samestat(os.fstat(one.fileno()), os.fstat(other.fileno()))
        except OSError:
            return False

    def replace(self, source: Path, target: Path) -> None:
        """Rename `source` to `target`, which may exist."""
        source.replace(target)

    def remove(self, path: Path) -> None:
        """Delete a file, if it exists."""
        path.unlink(missing_ok=True)

    def refresh(self, folder: Path) -> None:
        """Make the next listing come from the server.

        An NFS client caches listings for up to 60 s, and drops them when it changes the folder.
        """
        temporary = temporary_beside(folder / "look")
        self.write(temporary, b"")
        self.remove(temporary)

    def publish(self, target: Path, content: bytes) -> bool:
        """Create `target` with this content, atomically. Return False if another process has created it."""
        temporary = temporary_beside(target)
        try:
            self.write(temporary, content)
            return self.link(temporary, target)
        finally:
            self.remove(temporary)


def temporary_beside(path: Path) -> Path:
    """Return a hidden, unique name in the folder of `path`."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
