"""How much time workers of distributed inference spend on agreeing who does what, by simulation on one machine.

Every worker is a process of its own that runs `lmrc.inference.run_worker.work`; only the model is missing: a unit sleeps. Where
there are more workers than cores, a worker also waits for a core whenever it wants to claim something: what is shown as
wall time is too high then, and the processor's time plus the injected delays is the other bound.

    python benchmarks/work.py [--units 10000] [--workers 256] [--seconds-per-unit 3] [--nfs] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from lmrc.config.schema import WorkOptions
from lmrc.inference.run_worker import work
from lmrc.runs.shared_fs import Files

UNIT_SECONDS = 30.0
"""What a unit takes in real use; the share of coordination is told of it."""


class CountingFiles(Files):
    """Counts what is asked of the file system."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def names(self, folder: Path) -> list[str]:
        self.before("names")
        return super().names(folder)

    def read(self, path: Path) -> tuple[bytes, float]:
        self.before("read")
        return super().read(path)

    def touch(self, path: Path) -> float:
        self.before("touch")
        return super().touch(path)

    def write(self, path: Path, content: bytes) -> None:
        self.before("write")
        super().write(path, content)

    def link(self, source: Path, target: Path) -> bool:
        self.before("link")
        return super().link(source, target)

    def same(self, one: Path, other: Path) -> bool:
        self.before("same")
        return super().same(one, other)

    def replace(self, source: Path, target: Path) -> None:
        self.before("replace")
        super().replace(source, target)

    def remove(self, path: Path) -> None:
        self.before("remove")
        super().remove(path)

    def before(self, call: str) -> None:
        """Called before every operation."""
        self.calls[call] += 1


class NfsFiles(CountingFiles):
    """Answers like an NFS mount at its worst: a delay a call; listings and missing names that are seconds old."""

    def __init__(self, delay: float = 0.002, stale: float = 3.0) -> None:
        super().__init__()
        self.delay, self.stale = delay, stale
        self._listings: dict[Path, tuple[float, list[str]]] = {}
        self._missing: dict[Path, float] = {}

    def before(self, call: str) -> None:
        super().before(call)
        time.sleep(self.delay)

    def names(self, folder: Path) -> list[str]:
        now = time.monotonic()
        taken, names = self._listings.get(folder, (-self.stale, []))
        if now - taken >= self.stale:
            names = super().names(folder)
            self._listings[folder] = now, names
        return names

    def read(self, path: Path) -> tuple[bytes, float]:
        if time.monotonic() - self._missing.get(path, -self.stale) < self.stale:
            raise FileNotFoundError(path)
        try:
            return super().read(path)
        except FileNotFoundError:
            self._missing[path] = time.monotonic()
            raise

    def refresh(self, folder: Path) -> None:
        super().refresh(folder)
        self._listings.pop(folder, None)
        self._missing = {path: time_ for path, time_ in self._missing.items() if path.parent != folder}

    def link(self, source: Path, target: Path) -> bool:
        self._missing.pop(target, None)
        return super().link(source, target)


class Sleeper:
    """An inference whose units sleep; remembers how long the worker was busy between them."""

    identity = "simulation"
    schema = pa.schema([("document", pa.int64())])

    def __init__(self, documents: int, seconds: float) -> None:
        self.documents, self.seconds = documents, seconds
        self.computed: list[int] = []
        self.wall = self.processor = 0.0
        self._left: tuple[float, float] | None = None

    def load(self) -> None:
        """Load nothing."""

    def rows(self, documents: range) -> list[dict[str, Any]]:
        if self._left:
            self.wall += time.monotonic() - self._left[0]
            self.processor += time.thread_time() - self._left[1]
        self.computed.append(documents.start)
        time.sleep(self.seconds)
        self._left = time.monotonic(), time.thread_time()
        return [{"document": document} for document in documents]

    def finish(self, rows: Iterator[dict[str, Any]]) -> dict[str, Any]:
        begun = time.monotonic()
        whole = [row["document"] for row in rows] == list(range(self.documents))
        return {"whole": whole, "seconds": time.monotonic() - begun}


def worker(folder: Path, number: int, units: int, seconds: float, nfs: bool, begin: float) -> None:
    """One simulated worker; leaves what it saw in a file beside the run."""
    files = NfsFiles() if nfs else CountingFiles()
    inference = Sleeper(units, seconds)
    time.sleep(max(0.0, begin - time.monotonic()))
    result = work(folder / "run", inference, WorkOptions(docs_per_unit=1), progress=lambda line: None, files=files)
    seen = {
        "computed": inference.computed,
        "wall": inference.wall,
        "processor": inference.processor,
        "calls": files.calls,
        "result": result,
    }
    (folder / f"worker-{number}.json").write_text(json.dumps(seen))


def simulate(units: int, workers: int, seconds: float, nfs: bool) -> dict[str, Any]:
    """Run all workers to the end; the figures."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begin = time.monotonic() + workers * 0.01
        processes = [
            context.Process(target=worker, args=(folder, number, units, seconds, nfs, begin))
            for number in range(workers)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        elapsed = time.monotonic() - begin
        seen = [json.loads((folder / f"worker-{number}.json").read_text()) for number in range(workers)]
    computed = sum(len(one["computed"]) for one in seen)
    calls = sum((Counter(one["calls"]) for one in seen), Counter[str]())
    result = next(one["result"] for one in seen if one["result"])
    wall = sum(one["wall"] for one in seen) / computed
    processor = sum(one["processor"] for one in seen) / computed
    delays = NfsFiles().delay * calls.total() / computed if nfs else 0.0
    return {
        "units": units,
        "workers": workers,
        "seconds_per_unit": seconds,
        "seconds": elapsed - result["seconds"],
        "ideal_seconds": -(-units // workers) * seconds,
        "claims_per_second": computed / (elapsed - result["seconds"]),
        "computed_twice": computed - len({unit for one in seen for unit in one["computed"]}),
        "every_document_once": result["whole"],
        "merge_seconds": result["seconds"],
        "calls_per_unit": {call: count / computed for call, count in sorted(calls.items())},
        "coordination_seconds_per_unit": wall,
        "coordination_percent": 100 * wall / UNIT_SECONDS,
        "processor_and_delay_seconds_per_unit": processor + delays,
        "processor_and_delay_percent": 100 * (processor + delays) / UNIT_SECONDS,
    }


def main() -> int:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=256)
    parser.add_argument("--seconds-per-unit", type=float, default=3.0, help="how long a unit sleeps")
    parser.add_argument("--nfs", action="store_true", help="also with delays and stale answers like those of NFS")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    figures = {}
    for kind in ["plain", "nfs"] if options.nfs else ["plain"]:
        one = simulate(options.units, options.workers, options.seconds_per_unit, kind == "nfs")
        figures[kind] = one
        print(
            f"{kind}: {one['units']} units, {one['workers']} workers on {os.cpu_count()} cores: {one['seconds']:.1f} s "
            f"({one['ideal_seconds']:.1f} s asleep), merge {one['merge_seconds']:.1f} s\n"
            f"  {one['claims_per_second']:.1f} claims a second, {one['computed_twice']} units computed twice, "
            f"every document once: {one['every_document_once']}\n"
            f"  calls a unit: {', '.join(f'{call} {count:.2f}' for call, count in one['calls_per_unit'].items())}\n"
            f"  coordination a unit: {one['coordination_seconds_per_unit']:.4f} s of wall time, waits included; "
            f"{one['processor_and_delay_seconds_per_unit']:.4f} s of processor and of all delays, idle ones too"
        )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    good = all(one["every_document_once"] and not one["computed_twice"] for one in figures.values())
    shares = ", ".join(f"{kind} {one['coordination_percent']:.2f} %" for kind, one in figures.items())
    print(
        f"coordination at {UNIT_SECONDS:g} s a unit: {shares}; {'no' if good else 'SOME'} work was done twice or lost"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
