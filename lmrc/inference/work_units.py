"""RUN/units: what is known of the units of a distributed inference, all of it by names of files.

    plan.json            what the work is
    worker-ID            a worker's card: who it is, touched while it lives
    claim-00012.1        the first attempt at unit 12: another name of its worker's card
    part-00012.arrow     its rows: it is done
    error-00012.1.json   the attempt failed, or its worker died
    released-00012.1     the attempt does not count: others may go on

Names are made by exclusive links and none is taken back while work goes on, so a stale listing can only lack some:
what was once seen stays true. A claim is another name of its worker's card, so one touch keeps all claims alive.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from lmrc.common.errors import RunError
from lmrc.inference.protocol import Inference
from lmrc.runs.shared_fs import Files, temporary_beside

STALE_SECONDS = 5.0
"""How long NFS may go on calling a file missing after it was told of a change in the folder."""


@dataclass(frozen=True)
class WorkPlan:
    """How the documents are cut."""

    documents: int
    unit_documents: int
    units: int
    identity: str

    @classmethod
    def of(cls, inference: Inference, unit_documents: int) -> WorkPlan:
        """The plan for this work."""
        units = -(-inference.documents // unit_documents)
        return cls(inference.documents, unit_documents, units, inference.identity)

    def range(self, unit: int) -> range:
        """The documents of a unit."""
        start = unit * self.unit_documents
        return range(start, min(start + self.unit_documents, self.documents))


@dataclass(frozen=True)
class UnitCounts:
    """Where the work stands; a unit is counted once, and what nobody has begun is the rest."""

    total: int
    done: int
    claimed: int
    """Begun; its worker may have died since."""
    failed: int
    """The last attempt ended in an error or in its worker's death, and no other has begun."""


class Units:
    """The folder as this process knows it; `look` learns what others did since."""

    def __init__(self, run_folder: Path, files: Files) -> None:
        self.folder = run_folder / "units"
        self.files = files
        self.done: set[int] = set()
        self.attempts: dict[int, int] = {}
        """The number of the newest attempt at every unit that was ever claimed."""
        self.seen: dict[int, float] = {}
        """When this process first saw that attempt, by its own monotonic clock."""
        self.errors: defaultdict[int, set[int]] = defaultdict(set)
        self.released: defaultdict[int, set[int]] = defaultdict(set)
        self.workers: set[str] = set()
        self._names: set[str] = set()

    def prepare(self, plan: WorkPlan) -> None:
        """Make the folder, or take up the one that is there. Raises RunError where it holds other work."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "plan.json"
        self.files.publish(path, (json.dumps(asdict(plan), indent=2) + "\n").encode())
        before, now = json.loads(self.files.read(path)[0]), asdict(plan)
        differing = [f"{key} (was {before.get(key)}, now {now[key]})" for key in now if before.get(key) != now[key]]
        if differing:
            raise RunError(
                f"{self.folder} holds other work: {'; '.join(differing)}. Give the same corpus, weights and options "
                f"to go on with it, another --run name, or remove that folder to begin anew"
            )

    def look(self) -> None:
        """Take in what the listing shows."""
        names = set(self.files.names(self.folder)) - self._names
        now = time.monotonic()
        for name in names:
            kind, _, rest = name.partition("-")
            if kind == "worker":
                self.workers.add(name)
                continue
            if kind not in ("part", "claim", "error", "released"):
                continue
            number, second = rest.split(".")[:2]
            unit = int(number)
            if kind == "part":
                self.done.add(unit)
            elif kind == "claim":
                self.claimed(unit, int(second), now)
            else:
                (self.errors if kind == "error" else self.released)[unit].add(int(second))
        self._names |= names

    def claimed(self, unit: int, attempt: int, now: float) -> None:
        """Note that an attempt has begun."""
        if attempt > self.attempts.get(unit, 0):
            self.attempts[unit], self.seen[unit] = attempt, now

    def taken(self, unit: int) -> bool:
        """Whether anyone has ever begun the unit."""
        return unit in self.attempts or unit in self.done

    def unfinished(self) -> list[int]:
        """Units that were begun and are not done."""
        return [unit for unit in self.attempts if unit not in self.done]

    def failures(self, unit: int) -> set[int]:
        """Attempts that count as failed."""
        return self.errors[unit] - self.released[unit] if unit in self.errors else set()

    def running(self, unit: int) -> list[int]:
        """Attempts of which no end is known."""
        ended = self.errors.get(unit, set()) | self.released.get(unit, set())
        return [attempt for attempt in range(1, self.attempts.get(unit, 0) + 1) if attempt not in ended]

    def path(self, kind: str, unit: int, attempt: int | None = None, suffix: str = "") -> Path:
        """Where something about a unit lies."""
        return self.folder / f"{kind}-{unit:05d}{'' if attempt is None else f'.{attempt}'}{suffix}"

    def finish(self, unit: int, content: bytes) -> bool:
        """Publish the unit's part; False where another was faster, whose part then stays."""
        first = self.files.publish(self.path("part", unit, suffix=".arrow"), content)
        self.done.add(unit)
        return first

    def fail(self, unit: int, attempt: int, error: dict[str, Any]) -> None:
        """Publish how an attempt ended; the first word stays."""
        self.files.publish(self.path("error", unit, attempt, ".json"), (json.dumps(error, indent=2) + "\n").encode())
        self.errors[unit].add(attempt)

    def error(self, unit: int, attempt: int) -> dict[str, Any]:
        """How an attempt failed."""
        found: dict[str, Any] = json.loads(self.files.read(self.path("error", unit, attempt, ".json"))[0])
        return found

    def release(self, unit: int, attempt: int) -> None:
        """Let others go on with the unit; the attempt does not count."""
        self.files.publish(self.path("released", unit, attempt), b"")
        self.released[unit].add(attempt)

    def mark(self, unit: int, attempt: int, document: int) -> None:
        """Leave word of the document that is tried now, should it end the process."""
        path = self.path("trying", unit, attempt)
        temporary = temporary_beside(path)
        self.files.write(temporary, str(document).encode())
        self.files.replace(temporary, path)

    def unmark(self, unit: int, attempt: int) -> None:
        """No document ended the process."""
        self.files.remove(self.path("trying", unit, attempt))

    def marked(self, unit: int, attempt: int) -> int | None:
        """The document that the attempt's worker tried last by itself."""
        try:
            return int(self.files.read(self.path("trying", unit, attempt))[0])
        except FileNotFoundError:
            return None

    def rows(self, plan: WorkPlan) -> Iterator[dict[str, Any]]:
        """The rows of all documents in order, one part in memory. Raises RunError at a missing or damaged part."""
        for unit in range(plan.units):
            path, documents = self.path("part", unit, suffix=".arrow"), plan.range(unit)
            try:
                rows = decode(self._read_listed(path))
            except FileNotFoundError:
                raise _damaged(path, "missing") from None
            except pa.ArrowInvalid as error:
                raise _damaged(path, str(error)) from None
            if len(rows) != len(documents):
                raise _damaged(path, f"{len(rows)} rows for {len(documents)} documents")
            yield from rows

    def _read_listed(self, path: Path) -> bytes:
        """Read what a listing showed, though NFS may still remember that it was missing when last asked for."""
        end = time.monotonic() + STALE_SECONDS
        while True:
            try:
                return self.files.read(path)[0]
            except FileNotFoundError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
                self.files.refresh(self.folder)


def encode(rows: list[dict[str, Any]], schema: pa.Schema) -> bytes:
    """Rows as an Arrow IPC file."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return bytes(sink.getvalue())


def decode(content: bytes) -> list[dict[str, Any]]:
    """The rows of an Arrow IPC file. Raises pa.ArrowInvalid where it is none."""
    rows: list[dict[str, Any]] = pa.ipc.open_file(pa.BufferReader(content)).read_all().to_pylist()
    return rows


def counts(run_folder: Path, files: Files | None = None) -> UnitCounts:
    """Where the work of a run stands, from one listing; zeros where it has not begun or was cleaned away."""
    units = Units(run_folder, files or Files())
    try:
        total = json.loads(units.files.read(units.folder / "plan.json")[0])["units"]
        units.look()
    except FileNotFoundError:
        return UnitCounts(0, 0, 0, 0)
    unfinished = units.unfinished()
    failed = sum(1 for unit in unfinished if units.attempts[unit] in units.failures(unit))
    free = sum(1 for unit in unfinished if units.attempts[unit] in units.released[unit])
    return UnitCounts(total, len(units.done), len(unfinished) - failed - free, failed)


def clean(run_folder: Path) -> None:
    """Remove RUN/units, once DONE is written."""
    # Renamed first: gone at once for all, whatever NFS still keeps of files that others have open.
    with contextlib.suppress(FileNotFoundError):
        (run_folder / "units").rename(run_folder / f".units-{uuid.uuid4().hex[:12]}")
    for leftover in run_folder.glob(".units-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _damaged(path: Path, problem: str) -> RunError:
    return RunError(f"{path} is damaged ({problem}); remove it and repeat the command: its documents are done again")
