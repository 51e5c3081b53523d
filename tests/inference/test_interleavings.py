"""All interleavings of two workers with few deviations: no unit is lost, and the output is always the same."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any

import pyarrow as pa

from lmrc.common.exit_codes import Interrupted
from lmrc.config.schema import WorkOptions
from lmrc.inference.run_worker import clean, work
from tests.inference.interleavings import ClientFiles, Scheduler, explore

# A frozen worker is dead for others after the lease. A unit has more attempts than there are deviations.
OPTIONS = WorkOptions(docs_per_unit=1, lease_seconds=4, attempts=4)
KINDS = ("switch", "crash", "freeze", "stale", "error", "stop")


class Letters:
    """An inference whose row of a document is a letter."""

    identity = "letters"
    schema = pa.schema([("letter", pa.string())])

    def __init__(self, documents: int, folder: Path, files: ClientFiles, computed: Counter[int]) -> None:
        self.documents = documents
        self._folder, self._files, self._computed = folder, files, computed

    def load(self) -> None:
        pass

    def rows(self, documents: range) -> list[dict[str, Any]]:
        ending = self._files.compute()
        if ending == "stop":
            raise Interrupted("a signal")
        if ending == "error":
            raise ValueError("out of memory")
        self._computed.update(documents)
        return [{"letter": chr(ord("a") + document)} for document in documents]

    def finish(self, rows: Iterator[dict[str, Any]]) -> dict[str, Any]:
        text = "".join(row["letter"] for row in rows)
        self._files.write(self._folder / "output", text.encode())
        return {"letters": len(text)}


def run_workers(scheduler: Scheduler, folder: Path, documents: int, workers: int) -> None:
    """Run the workers, then the same command again if it did not finish, and check the outcome."""
    computed: Counter[int] = Counter()

    def command(files: ClientFiles) -> None:
        result = work(folder, Letters(documents, folder, files, computed), OPTIONS, job="", files=files)
        if result is not None:
            files.publish(folder / "DONE", json.dumps(result).encode())
            clean(folder)

    ended = scheduler.run([command] * workers)
    if not scheduler.met.keys() - {"switch", "stale"}:
        assert (folder / "DONE").exists()
        assert computed == Counter(range(documents))
    while not (folder / "DONE").exists():
        assert scheduler.met.keys() & {"crash", "stop"}, "nobody was ended, but the inference did not finish"
        # The same command again, when the lease of a killed merger is over.
        scheduler.clock += 2 * OPTIONS.lease_seconds
        ended += scheduler.run([command])
    assert [worker.error for worker in ended if not isinstance(worker.error, (NoneType, Interrupted))] == []
    assert (folder / "output").read_text() == "abcdefgh"[:documents]
    assert json.loads((folder / "DONE").read_text()) == {"letters": documents}
    # Each disturbance may cost the unit that was at work, and no other.
    assert sum(computed.values()) <= documents + scheduler.met["crash"] + scheduler.met["freeze"]


def count_schedules(folder: Path, documents: int, workers: int, deviations: int, kinds: tuple[str, ...] = KINDS) -> int:
    runs = explore(lambda scheduler: run_workers(scheduler, folder, documents, workers), deviations, kinds, folder)
    return sum(1 for _ in runs)


def test_two_workers_with_one_deviation(tmp_path: Path) -> None:
    assert count_schedules(tmp_path / "run", documents=2, workers=2, deviations=1) > 80


def test_two_workers_of_one_unit_with_two_deviations(tmp_path: Path) -> None:
    assert count_schedules(tmp_path / "run", documents=1, workers=2, deviations=2) > 2000
