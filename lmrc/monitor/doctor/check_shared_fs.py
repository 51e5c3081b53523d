"""Test of a shared file system: `srun -N2 -n2 python -m lmrc.monitor.doctor.check_shared_fs FOLDER`.

The processes communicate only through files, as leases and units do, and need no torch. Each prints one line of JSON
with `rank`, `node`, `boot` (the boot id of its machine), and its results or `error`.
"""

from __future__ import annotations

import errno
import json
import os
import random
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmrc.runs.heartbeat import Process
from lmrc.runs.shared_fs import Files

TIMEOUT_SECONDS = 60.0
PINGS = 3
ROUNDS = 20
SECONDS_BETWEEN_REFRESHES = 0.5
RENAMES = 200
# Bytes of the file that is replaced: more than one network packet.
SIZE = 200_000


class FileNotSeen(Exception):
    """A file written by another node did not appear in time."""


class SharedFsProbe:
    """One process of the test. Each runs on its own node."""

    def __init__(self, folder: Path, rank: int, size: int, files: Files | None = None) -> None:
        self.folder, self.rank, self.size = folder, rank, size
        self.files = files or Files()

    def examine(self) -> dict[str, Any]:
        """Run all tests in step with the other nodes. Return the results.

        Raises:
            FileNotSeen: a file of another node did not appear in time.
            OSError: the folder cannot be used.
        """
        self._barrier("start")
        results: dict[str, Any] = {"delay": self._delay(), "clock": self._clock()}
        results["won"] = self._links()
        self._barrier("renames")
        results["torn"], results["reads"], results["stale"] = self._renames()
        return results

    def _wait_for(self, name: str, refresh: bool = True) -> bytes:
        """Wait for a file of another node and return its content.

        Args:
            refresh: refresh the cached directory listing, as workers of an inference do.
        """
        deadline = time.monotonic() + TIMEOUT_SECONDS
        refreshed = time.monotonic()
        while True:
            try:
                return self.files.read(self.folder / name)[0]
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ESTALE):
                    raise
                if time.monotonic() > deadline:
                    raise FileNotSeen(f"{name} did not appear within {TIMEOUT_SECONDS:.0f} s") from None
            if refresh and time.monotonic() - refreshed > SECONDS_BETWEEN_REFRESHES:
                self.files.refresh(self.folder)
                refreshed = time.monotonic()
            time.sleep(0.001)

    def _publish(self, name: str, content: bytes = b"") -> None:
        self.files.publish(self.folder / name, content)

    def _barrier(self, name: str) -> None:
        """Wait until all nodes have reached this point."""
        self._publish(f"{name}-{self.rank}")
        for other in range(self.size):
            self._wait_for(f"{name}-{other}")

    def _delay(self) -> float:
        """Return the longest time in seconds until another node sees a new file: half of a round trip."""
        if self.rank:
            for ping in range(PINGS):
                self._wait_for(f"ping-{self.rank}-{ping}", refresh=False)
                self._publish(f"pong-{self.rank}-{ping}")
            return 0.0
        longest = 0.0
        for other in range(1, self.size):
            for ping in range(PINGS):
                start = time.monotonic()
                self._publish(f"ping-{other}-{ping}")
                self._wait_for(f"pong-{other}-{ping}", refresh=False)
                longest = max(longest, (time.monotonic() - start) / 2)
        return longest

    def _clock(self) -> float:
        """Return by how many seconds this node's clock is ahead of the file server's."""
        path = self.folder / f"clock-{self.rank}"
        self.files.write(path, b"")
        offsets = []
        for _ in range(PINGS):
            before = time.time()
            server = self.files.touch(path)
            offsets.append((before + time.time()) / 2 - server)
        return min(offsets, key=abs)

    def _links(self) -> list[int]:
        """Return the rounds that this node won. In each round all nodes try to create the same hard link."""
        own = self.folder / f"own-{self.rank}"
        self.files.write(own, b"")
        won = []
        for round_index in range(ROUNDS):
            self._barrier(f"round-{round_index}")
            # Without this delay the node that reaches the barrier last would win every round.
            time.sleep(random.uniform(0.0, 0.01))
            if self.files.link(own, self.folder / f"claim-{round_index}"):
                won.append(round_index)
        return won

    def _renames(self) -> tuple[int, int, int]:
        """Return the number of reads of a half-replaced file, of all reads, and of reads that failed with ESTALE."""
        target = self.folder / "replaced"
        if self.rank == 0:
            self._replace(target, 0)
            self._barrier("replacing")
            for version in range(1, RENAMES):
                self._replace(target, version)
            self._publish("replaced-all")
            return 0, 0, 0
        self._barrier("replacing")
        torn = reads = stale = 0
        while not (self.folder / "replaced-all").exists() or not reads:
            try:
                content = self.files.read(target)[0]
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ESTALE):
                    raise
                # ESTALE is allowed: the old file may be deleted while it is read. A missing name is not.
                torn, stale = torn + (error.errno == errno.ENOENT), stale + (error.errno == errno.ESTALE)
            else:
                torn += len(content) != SIZE or content.count(content[0]) != SIZE
            reads += 1
        return torn, reads, stale

    def _replace(self, target: Path, version: int) -> None:
        temporary = target.with_name(f".replaced-{version}.tmp")
        self.files.write(temporary, bytes([version % 256]) * SIZE)
        self.files.replace(temporary, target)


def results_or_error(examine: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the results of a test, or its error message under `error`."""
    try:
        return examine()
    except (FileNotSeen, OSError, ValueError) as error:
        return {"error": str(error)}


def main() -> None:
    """Run the test in one task of srun, and print its results."""
    rank, size = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
    probe = SharedFsProbe(Path(sys.argv[1]), rank, size)
    name = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    results = {"rank": rank, "node": name, "boot": Process.current(None).boot_id, **results_or_error(probe.examine)}
    # A single write, because srun interleaves the output of several processes.
    sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
