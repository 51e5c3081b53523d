"""A stage that any number of workers share, and workers in processes of their own."""

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

# Long: a worker that dies is known by its process; one that only waits for a core is not dead.
OPTIONS = WorkOptions(docs_per_unit=4, lease_seconds=30)
# For those who hang, of whom nothing but the time tells.
IMPATIENT = WorkOptions(docs_per_unit=4, lease_seconds=0.5)


class Answers:
    """A stage whose answer to a document is its square; `trouble` is called with every range before it is computed."""

    identity = "squares"
    schema = pa.schema([("document", pa.int64()), ("square", pa.int64())])

    def __init__(
        self, documents: int, out: Path, trouble: Callable[[range], None] = lambda documents: None, seconds: float = 0.0
    ) -> None:
        self.documents, self.out, self.trouble, self.seconds = documents, out, trouble, seconds
        self.loads = 0

    def load(self) -> None:
        self.loads += 1

    def rows(self, documents: range) -> list[dict[str, Any]]:
        with (self.out / "computed").open("a") as file:
            file.write(f"{os.getpid()} {documents.start} {documents.stop}\n")
        self.trouble(documents)
        time.sleep(self.seconds)
        return [{"document": document, "square": document**2} for document in documents]

    def finish(self, rows: Iterator[dict[str, Any]]) -> dict[str, Any]:
        (self.out / "output").write_text("begun")
        (self.out / "output").write_text("".join(f"{row['document']} {row['square']}\n" for row in rows))
        with (self.out / "merges").open("a") as file:
            file.write(f"{os.getpid()}\n")
        return {"documents": self.documents}

    def computed(self) -> list[tuple[int, int]]:
        """The ranges that were asked for, in time."""
        lines = (self.out / "computed").read_text().splitlines()
        return [(int(line.split()[1]), int(line.split()[2])) for line in lines]

    def right(self) -> bool:
        """Whether the output is what one worker alone would write."""
        expected = "".join(f"{document} {document * document}\n" for document in range(self.documents))
        return (self.out / "output").read_text() == expected


def quiet(line: str) -> None:
    pass


def start(
    folder: Path, inference: Answers, options: WorkOptions = OPTIONS, files: Files | None = None, done: bool = False
) -> BaseProcess:
    """A worker in a process of its own; with `done` it writes DONE and cleans, as the launchers do."""

    def run() -> None:
        result = work(folder, inference, options, progress=quiet, files=files)
        if result and done:
            (folder / "DONE").write_text(json.dumps(result))
            clean(folder)

    process = FORK.Process(target=run)
    process.start()
    return process


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.01)


def bad(*poison: int) -> Callable[[range], None]:
    def trouble(documents: range) -> None:
        for document in poison:
            if document in documents:
                raise ValueError(f"document {document} has no sentences\nat all")

    return trouble
