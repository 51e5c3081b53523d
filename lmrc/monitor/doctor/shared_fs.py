"""The shared file system as several nodes see it: `srun -N2 -n2 python -m lmrc.monitor.doctor.shared_fs FOLDER`.

Without torch, and without talking but by files, as leases and units do. Every process prints one JSON object a line:
`rank`, `node`, `boot` (of its machine) and its findings, or `error`.
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

PATIENCE = 60.0
PINGS = 3
ROUNDS = 20
SECONDS_BETWEEN_REFRESHES = 0.5
RENAMES = 200
SIZE = 200_000
"""Bytes of a file that is replaced: more than one network packet, less than a checkpoint."""


class Unseen(Exception):
    """What another node wrote did not appear."""


class SharedFsProbe:
    """One process of the test, on a node of its own."""

    def __init__(self, folder: Path, rank: int, size: int, files: Files | None = None) -> None:
        self.folder, self.rank, self.size = folder, rank, size
        self.files = files or Files()

    def examine(self) -> dict[str, Any]:
        """All tests, in step with the other nodes. Raises Unseen, or OSError where the folder is not there."""
        self._meet("start")
        found: dict[str, Any] = {"delay": self._delay(), "clock": self._clock()}
        found["won"] = self._links()
        self._meet("renames")
        found["torn"], found["reads"], found["stale"] = self._renames()
        return found

    def _see(self, name: str, refresh: bool = True) -> bytes:
        """The content of a file that another node writes, as soon as it is seen here; `refresh` as units do."""
        deadline = time.monotonic() + PATIENCE
        refreshed = time.monotonic()
        while True:
            try:
                return self.files.read(self.folder / name)[0]
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ESTALE):
                    raise
                if time.monotonic() > deadline:
                    raise Unseen(f"{name} did not appear within {PATIENCE:.0f} s") from None
            if refresh and time.monotonic() - refreshed > SECONDS_BETWEEN_REFRESHES:
                self.files.refresh(self.folder)
                refreshed = time.monotonic()
            time.sleep(0.001)

    def _tell(self, name: str, content: bytes = b"") -> None:
        self.files.publish(self.folder / name, content)

    def _meet(self, name: str) -> None:
        """Go on once all are here."""
        self._tell(f"{name}-{self.rank}")
        for other in range(self.size):
            self._see(f"{name}-{other}")

    def _delay(self) -> float:
        """Seconds until a new file is seen by another node, the longest of some: half of there and back."""
        if self.rank:
            for number in range(PINGS):
                self._see(f"ping-{self.rank}-{number}", refresh=False)
                self._tell(f"pong-{self.rank}-{number}")
            return 0.0
        longest = 0.0
        for other in range(1, self.size):
            for number in range(PINGS):
                start = time.monotonic()
                self._tell(f"ping-{other}-{number}")
                self._see(f"pong-{other}-{number}", refresh=False)
                longest = max(longest, (time.monotonic() - start) / 2)
        return longest

    def _clock(self) -> float:
        """Seconds by which this node's clock is ahead of the file server's."""
        path = self.folder / f"clock-{self.rank}"
        self.files.write(path, b"")
        offsets = []
        for _ in range(PINGS):
            before = time.time()
            server = self.files.touch(path)
            offsets.append((before + time.time()) / 2 - server)
        return min(offsets, key=abs)

    def _links(self) -> list[int]:
        """The rounds that this node won: in each all go for one name at the same time."""
        own = self.folder / f"own-{self.rank}"
        self.files.write(own, b"")
        won = []
        for number in range(ROUNDS):
            self._meet(f"round-{number}")
            # Who arrives last is the first to go: without this it would win them all.
            time.sleep(random.uniform(0.0, 0.01))
            if self.files.link(own, self.folder / f"claim-{number}"):
                won.append(number)
        return won

    def _renames(self) -> tuple[int, int, int]:
        """Reads that showed a half-replaced file, reads in all, and those that had to be repeated (ESTALE)."""
        target = self.folder / "replaced"
        if self.rank == 0:
            self._replace(target, 0)
            self._meet("replacing")
            for number in range(1, RENAMES):
                self._replace(target, number)
            self._tell("replaced-all")
            return 0, 0, 0
        self._meet("replacing")
        torn = reads = stale = 0
        while not (self.folder / "replaced-all").exists() or not reads:
            try:
                content = self.files.read(target)[0]
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ESTALE):
                    raise
                # A name that is replaced is never missing; an old content may be gone from under its reader.
                torn, stale = torn + (error.errno == errno.ENOENT), stale + (error.errno == errno.ESTALE)
            else:
                torn += len(content) != SIZE or content.count(content[0]) != SIZE
            reads += 1
        return torn, reads, stale

    def _replace(self, target: Path, number: int) -> None:
        temporary = target.with_name(f".replaced-{number}.tmp")
        self.files.write(temporary, bytes([number % 256]) * SIZE)
        self.files.replace(temporary, target)


def told(examine: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a test found, or why it could not be done."""
    try:
        return examine()
    except (Unseen, OSError, ValueError) as error:
        return {"error": str(error)}


def main() -> None:
    """One process of `srun`."""
    rank, size = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
    node = SharedFsProbe(Path(sys.argv[1]), rank, size)
    name = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    # One write: srun mixes what several processes print.
    found = {"rank": rank, "node": name, "boot": Process.current(None).boot_id, **told(node.examine)}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
