"""A small inference for tests, and workers in separate processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pyarrow as pa

from lmrc.config.schema import WorkOptions
from lmrc.inference.run_worker import clean, work
from lmrc.runs.shared_fs import Files

FORK = multiprocessing.get_context("fork")

# A long lease, because a worker that only waits for a core must not be taken for dead.
OPTIONS = WorkOptions(docs_per_unit=4, lease_seconds=30)
# A short lease, for tests of workers that hang.
SHORT_LEASE = WorkOptions(docs_per_unit=4, lease_seconds=0.5)


class SquaresInference:
    """An inference whose row of a document is its square.

    Args:
        documents: Number of documents.
        out: Folder of the outputs, and of the records of what was computed.
        fault: Called with each range before it is computed; may raise, block or exit.
        seconds: Duration of a unit.
    """

    identity = "squares"
    schema = pa.schema([("document", pa.int64()), ("square", pa.int64())])

    def __init__(
        self, documents: int, out: Path, fault: Callable[[range], None] = lambda documents: None, seconds: float = 0.0
    ) -> None:
        self.documents, self.out, self.fault, self.seconds = documents, out, fault, seconds
        self.loads = 0

    def load(self) -> None:
        self.loads += 1

    def rows(self, documents: range) -> list[dict[str, Any]]:
        with (self.out / "computed").open("a") as file:
            file.write(f"{os.getpid()} {documents.start} {documents.stop}\n")
        self.fault(documents)
        time.sleep(self.seconds)
        return [{"document": document, "square": document**2} for document in documents]

    def finish(self, rows: Iterator[dict[str, Any]]) -> dict[str, Any]:
        (self.out / "output").write_text("begun")
        (self.out / "output").write_text("".join(f"{row['document']} {row['square']}\n" for row in rows))
        with (self.out / "merges").open("a") as file:
            file.write(f"{os.getpid()}\n")
        return {"documents": self.documents}

    def computed(self) -> list[tuple[int, int]]:
        """Return the ranges that were computed, in order of time."""
        lines = (self.out / "computed").read_text().splitlines()
        return [(int(line.split()[1]), int(line.split()[2])) for line in lines]

    def is_correct(self) -> bool:
        """Return True if the output is that of a single worker."""
        expected = "".join(f"{document} {document * document}\n" for document in range(self.documents))
        return (self.out / "output").read_text() == expected


def start(
    folder: Path,
    inference: SquaresInference,
    options: WorkOptions = OPTIONS,
    files: Files | None = None,
    done: bool = False,
) -> BaseProcess:
    """Start a worker in a new process. With `done` it writes DONE and cleans up, as the launchers do."""

    def run() -> None:
        result = work(folder, inference, options, files=files)
        if result and done:
            (folder / "DONE").write_text(json.dumps(result))
            clean(folder)

    process = FORK.Process(target=run)
    process.start()
    return process


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition was never met"
        time.sleep(0.01)


def fail_at(*documents_at_fault: int) -> Callable[[range], None]:
    def fault(documents: range) -> None:
        for document in documents_at_fault:
            if document in documents:
                raise ValueError(f"document {document} has no sentences\nat all")

    return fault
