"""The units of a distributed inference. Their whole state is the names of the files in RUN/units.

    plan.json            fingerprint of the inference, and the size of a unit
    worker-ID            a worker's file: its process; touched as its heartbeat
    claim-00012.1        first attempt at unit 12: a hard link to the worker's file
    part-00012.arrow     rows of unit 12, so it is done
    error-00012.1.json   the attempt failed, or its worker died
    released-00012.1     the attempt does not count, and others may claim the unit

Files are made by exclusive hard links, and none is removed while workers run. So a stale listing can only miss files,
and what was once seen stays true. A claim is a link to its worker's file, so one touch keeps all claims alive.
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

# Time for which an NFS client may report a file as missing although its folder was changed by this client.
STALE_SECONDS = 5.0


@dataclass(frozen=True)
class WorkPlan:
    """The division of the documents into units.

    Attributes:
        documents: Number of documents.
        docs_per_unit: Documents per unit; the last unit may have fewer.
        units: Number of units.
        identity: Fingerprint of the inference.
    """

    documents: int
    docs_per_unit: int
    units: int
    identity: str

    @classmethod
    def of(cls, inference: Inference, docs_per_unit: int) -> WorkPlan:
        """Return the plan for an inference."""
        units = -(-inference.documents // docs_per_unit)
        return cls(inference.documents, docs_per_unit, units, inference.identity)

    def range(self, unit: int) -> range:
        """Return the documents of a unit."""
        start = unit * self.docs_per_unit
        return range(start, min(start + self.docs_per_unit, self.documents))


@dataclass(frozen=True)
class UnitCounts:
    """Numbers of units by state. Each unit is counted once; the rest of `total` is free.

    Attributes:
        total: All units.
        done: Units with rows.
        claimed: Units with a running attempt, whose worker may have died.
        failed: Units whose newest attempt failed or whose worker died.
    """

    total: int
    done: int
    claimed: int
    failed: int


class Units:
    """The state of all units as this process knows it. `look` reads what others did since.

    Attributes:
        folder: RUN/units.
        files: The file system operations.
        done: Units that are done.
        attempts: Number of the newest attempt, by unit that was ever claimed.
        seen: Time at which this process first saw that attempt, by its own monotonic clock.
        errors: Attempts that failed, by unit.
        released: Attempts that do not count, by unit.
        workers: Names of the workers' files.
    """

    def __init__(self, run_folder: Path, files: Files) -> None:
        self.folder = run_folder / "units"
        self.files = files
        self.done: set[int] = set()
        self.attempts: dict[int, int] = {}
        self.seen: dict[int, float] = {}
        self.errors: defaultdict[int, set[int]] = defaultdict(set)
        self.released: defaultdict[int, set[int]] = defaultdict(set)
        self.workers: set[str] = set()
        self._names: set[str] = set()

    def prepare(self, plan: WorkPlan) -> None:
        """Make the folder, or check that the existing one belongs to this plan.

        Raises:
            RunError: It belongs to another inference.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "plan.json"
        self.files.publish(path, (json.dumps(asdict(plan), indent=2) + "\n").encode())
        before, now = self.read_plan(), asdict(plan)
        differing = [f"{key} (was {before.get(key)}, now {now[key]})" for key in now if before.get(key) != now[key]]
        if differing:
            raise RunError(
                f"{self.folder} belongs to another inference: {'; '.join(differing)}. Give the same corpus, weights "
                f"and options to continue it, another --run name, or remove that folder to start again"
            )

    def read_plan(self) -> dict[str, Any]:
        """Return the plan of the folder, as JSON."""
        plan: dict[str, Any] = json.loads(self.files.read(self.folder / "plan.json")[0])
        # The option had this name when older folders were written.
        if "unit_documents" in plan:
            plan["docs_per_unit"] = plan.pop("unit_documents")
        return plan

    def look(self) -> None:
        """Update the state from a listing of the folder."""
        names = set(self.files.names(self.folder)) - self._names
        now = time.monotonic()
        for name in names:
            kind, _, rest = name.partition("-")
            if kind == "worker":
                self.workers.add(name)
                continue
            if kind not in ("part", "claim", "error", "released"):
                continue
            unit_text, suffix = rest.split(".")[:2]
            unit = int(unit_text)
            if kind == "part":
                self.done.add(unit)
            elif kind == "claim":
                self.note_claim(unit, int(suffix), now)
            else:
                (self.errors if kind == "error" else self.released)[unit].add(int(suffix))
        self._names |= names

    def note_claim(self, unit: int, attempt: int, now: float) -> None:
        """Note that an attempt was claimed."""
        if attempt > self.attempts.get(unit, 0):
            self.attempts[unit], self.seen[unit] = attempt, now

    def was_claimed(self, unit: int) -> bool:
        """Return True if a worker ever claimed the unit."""
        return unit in self.attempts or unit in self.done

    def unfinished(self) -> list[int]:
        """Return the units that were claimed and are not done."""
        return [unit for unit in self.attempts if unit not in self.done]

    def failures(self, unit: int) -> set[int]:
        """Return the attempts that count as failed."""
        return self.errors[unit] - self.released[unit] if unit in self.errors else set()

    def running(self, unit: int) -> list[int]:
        """Return the attempts that have neither failed nor been released."""
        ended = self.errors.get(unit, set()) | self.released.get(unit, set())
        return [attempt for attempt in range(1, self.attempts.get(unit, 0) + 1) if attempt not in ended]

    def path(self, kind: str, unit: int, attempt: int | None = None, suffix: str = "") -> Path:
        """Return the path of a file about a unit, such as claim-00012.1."""
        return self.folder / f"{kind}-{unit:05d}{'' if attempt is None else f'.{attempt}'}{suffix}"

    def finish(self, unit: int, content: bytes) -> bool:
        """Publish the rows of a unit. Return False if another worker was faster; its part then stays."""
        first = self.files.publish(self.path("part", unit, suffix=".arrow"), content)
        self.done.add(unit)
        return first

    def fail(self, unit: int, attempt: int, error: dict[str, Any]) -> None:
        """Publish the error of an attempt. The first one published stays."""
        self.files.publish(self.path("error", unit, attempt, ".json"), (json.dumps(error, indent=2) + "\n").encode())
        self.errors[unit].add(attempt)

    def error(self, unit: int, attempt: int) -> dict[str, Any]:
        """Return the published error of an attempt."""
        error: dict[str, Any] = json.loads(self.files.read(self.path("error", unit, attempt, ".json"))[0])
        return error

    def release(self, unit: int, attempt: int) -> None:
        """Release a unit to other workers. The attempt does not count."""
        self.files.publish(self.path("released", unit, attempt), b"")
        self.released[unit].add(attempt)

    def mark(self, unit: int, attempt: int, document: int) -> None:
        """Write down the document that is computed alone now, in case it kills the process."""
        path = self.path("trying", unit, attempt)
        temporary = temporary_beside(path)
        self.files.write(temporary, str(document).encode())
        self.files.replace(temporary, path)

    def unmark(self, unit: int, attempt: int) -> None:
        """Remove what `mark` wrote, because no document killed the process."""
        self.files.remove(self.path("trying", unit, attempt))

    def marked(self, unit: int, attempt: int) -> int | None:
        """Return the document that killed the worker of an attempt; None if there is no mark."""
        try:
            return int(self.files.read(self.path("trying", unit, attempt))[0])
        except FileNotFoundError:
            return None

    def rows(self, plan: WorkPlan) -> Iterator[dict[str, Any]]:
        """Yield the rows of all documents in order, with one part in memory at a time.

        Raises:
            RunError: A part is missing or damaged.
        """
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
        """Read a file that a listing showed."""
        # An NFS client may still have cached that it was missing.
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
    """Return rows as an Arrow IPC file."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return bytes(sink.getvalue())


def decode(content: bytes) -> list[dict[str, Any]]:
    """Return the rows of an Arrow IPC file.

    Raises:
        pa.ArrowInvalid: The content is not an Arrow IPC file.
    """
    rows: list[dict[str, Any]] = pa.ipc.open_file(pa.BufferReader(content)).read_all().to_pylist()
    return rows


def counts(run_folder: Path, files: Files | None = None) -> UnitCounts:
    """Return the numbers of units by state; all 0 if the inference has not begun or was cleaned."""
    units = Units(run_folder, files or Files())
    try:
        total = units.read_plan()["units"]
        units.look()
    except FileNotFoundError:
        return UnitCounts(0, 0, 0, 0)
    unfinished = units.unfinished()
    failed = sum(1 for unit in unfinished if units.attempts[unit] in units.failures(unit))
    free = sum(1 for unit in unfinished if units.attempts[unit] in units.released[unit])
    return UnitCounts(total, len(units.done), len(unfinished) - failed - free, failed)


def clean(run_folder: Path) -> None:
    """Remove RUN/units, after DONE is written."""
    # A rename removes it for all workers at once. NFS keeps deleted files that other processes have open.
    with contextlib.suppress(FileNotFoundError):
        (run_folder / "units").rename(run_folder / f".units-{uuid.uuid4().hex[:12]}")
    for leftover in run_folder.glob(".units-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _damaged(path: Path, problem: str) -> RunError:
    return RunError(f"{path} is damaged ({problem}); remove it and repeat the command: its documents are done again")
