"""Measure the time that workers of distributed inference spend on coordination, by simulation on one machine.

Each worker is a separate process that runs `lmrc.inference.run_worker.work`, with a unit that sleeps instead of a
model. If there are more workers than cores, a worker also waits for a core, so the wall time is too high. CPU time plus
the injected delays is then the lower bound.

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

# Duration of a unit in real use. The share of coordination is relative to it.
UNIT_SECONDS = 30.0


class CountingFiles(Files):
    """A file system that counts the operations."""

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
        """Count an operation before it runs."""
        self.calls[call] += 1


class NfsFiles(CountingFiles):
    """A simulated slow NFS mount: each operation is delayed, and listings and missing files are cached for seconds."""

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
        self._missing = {path: asked for path, asked in self._missing.items() if path.parent != folder}

    def link(self, source: Path, target: Path) -> bool:
        self._missing.pop(target, None)
        return super().link(source, target)


class Sleeper:
    """An inference whose units sleep. It records the time that the worker needs between units."""

    identity = "simulation"
    schema = pa.schema([("document", pa.int64())])

    def __init__(self, documents: int, seconds: float) -> None:
        self.documents, self.seconds = documents, seconds
        self.computed: list[int] = []
        self.wall = self.processor = 0.0
        self._unit_end: tuple[float, float] | None = None

    def load(self) -> None:
        """Do nothing: there is no model."""

    def rows(self, documents: range) -> list[dict[str, Any]]:
        if self._unit_end:
            self.wall += time.monotonic() - self._unit_end[0]
            self.processor += time.thread_time() - self._unit_end[1]
        self.computed.append(documents.start)
        time.sleep(self.seconds)
        self._unit_end = time.monotonic(), time.thread_time()
        return [{"document": document} for document in documents]

    def finish(self, rows: Iterator[dict[str, Any]]) -> dict[str, Any]:
        begun = time.monotonic()
        whole = [row["document"] for row in rows] == list(range(self.documents))
        return {"whole": whole, "seconds": time.monotonic() - begun}


def worker(folder: Path, index: int, units: int, seconds: float, nfs: bool, begin: float) -> None:
    """Run a simulated worker, and write its measurements to a file beside the run."""
    files = NfsFiles() if nfs else CountingFiles()
    inference = Sleeper(units, seconds)
    time.sleep(max(0.0, begin - time.monotonic()))
    result = work(folder / "run", inference, WorkOptions(docs_per_unit=1), files=files)
    measured = {
        "computed": inference.computed,
        "wall": inference.wall,
        "processor": inference.processor,
        "calls": files.calls,
        "result": result,
    }
    (folder / f"worker-{index}.json").write_text(json.dumps(measured))


def simulate(units: int, workers: int, seconds: float, nfs: bool) -> dict[str, Any]:
    """Run all workers to the end and return the results."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begin = time.monotonic() + workers * 0.01
        processes = [
            context.Process(target=worker, args=(folder, index, units, seconds, nfs, begin)) for index in range(workers)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        elapsed = time.monotonic() - begin
        measured = [json.loads((folder / f"worker-{index}.json").read_text()) for index in range(workers)]
    computed = sum(len(row["computed"]) for row in measured)
    calls = sum((Counter(row["calls"]) for row in measured), Counter[str]())
    result = next(row["result"] for row in measured if row["result"])
    wall = sum(row["wall"] for row in measured) / computed
    processor = sum(row["processor"] for row in measured) / computed
    delays = NfsFiles().delay * calls.total() / computed if nfs else 0.0
    return {
        "units": units,
        "workers": workers,
        "seconds_per_unit": seconds,
        "seconds": elapsed - result["seconds"],
        "ideal_seconds": -(-units // workers) * seconds,
        "claims_per_second": computed / (elapsed - result["seconds"]),
        "computed_twice": computed - len({unit for row in measured for unit in row["computed"]}),
        "every_document_once": result["whole"],
        "merge_seconds": result["seconds"],
        "calls_per_unit": {call: count / computed for call, count in sorted(calls.items())},
        "coordination_seconds_per_unit": wall,
        "coordination_percent": 100 * wall / UNIT_SECONDS,
        "processor_and_delay_seconds_per_unit": processor + delays,
        "processor_and_delay_percent": 100 * (processor + delays) / UNIT_SECONDS,
    }


def main() -> int:
    """Simulate and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=256)
    parser.add_argument("--seconds-per-unit", type=float, default=3.0, help="duration of a unit")
    parser.add_argument("--nfs", action="store_true", help="also simulate the delays and caches of NFS")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    figures = {}
    for kind in ["plain", "nfs"] if options.nfs else ["plain"]:
        result = simulate(options.units, options.workers, options.seconds_per_unit, kind == "nfs")
        figures[kind] = result
        calls = ", ".join(f"{call} {count:.2f}" for call, count in result["calls_per_unit"].items())
        print(
            f"{kind}: {result['units']} units, {result['workers']} workers on {os.cpu_count()} cores: "
            f"{result['seconds']:.1f} s ({result['ideal_seconds']:.1f} s asleep), "
            f"merge {result['merge_seconds']:.1f} s\n"
            f"  {result['claims_per_second']:.1f} claims per second, {result['computed_twice']} units computed twice, "
            f"every document once: {result['every_document_once']}\n"
            f"  calls per unit: {calls}\n"
            f"  coordination per unit: {result['coordination_seconds_per_unit']:.4f} s of wall time, with waits; "
            f"{result['processor_and_delay_seconds_per_unit']:.4f} s of CPU time and delays, also of idle workers"
        )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    good = all(result["every_document_once"] and not result["computed_twice"] for result in figures.values())
    shares = ", ".join(f"{kind} {result['coordination_percent']:.2f} %" for kind, result in figures.items())
    print(
        f"coordination at {UNIT_SECONDS:g} s per unit: {shares}; {'no' if good else 'SOME'} work was done twice or lost"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
