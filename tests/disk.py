"""Small disks that a test can fill."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Disk:
    """A file system of a few megabytes that can be filled and made read-only for real."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self, leave: int = 0) -> None:
        """Fill it but for `leave` bytes."""
        free = os.statvfs(self.path)
        size = free.f_bavail * free.f_frsize - leave
        with self._ballast.open("ab", buffering=0) as file:
            os.posix_fallocate(file.fileno(), file.tell(), size)

    def free(self) -> None:
        """Take back `fill`."""
        self._ballast.unlink()

    def set_writable(self, writable: bool) -> None:
        """Remount the disk, after files that are open for writing are closed."""
        command = ["mount", "-o", f"remount,{'rw' if writable else 'ro'}", str(self.path)]
        for _ in range(100):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == 0:
                return
            time.sleep(0.02)
        pytest.fail(f"{' '.join(command)}: {done.stderr}")


@contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[Disk]:
    """Mounted at `path`; skips the test where that is not permitted."""
    path.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        pytest.skip("only root may mount the small file system that is to be filled")
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"mounting a small file system is not permitted here: {done.stderr.strip()}")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
