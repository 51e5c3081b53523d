"""The formats of triples by name, and by the end of a file's name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from lmrc.common.atomic_io import replacing
from lmrc.common.errors import UserError
from lmrc.export.entities import EntityIds
from lmrc.export.graphml import GraphmlWriter
from lmrc.export.neo4j import NODES, RELATIONSHIPS, Neo4jWriter
from lmrc.export.result import ExtractedDocument
from lmrc.export.table import TableWriter
from lmrc.export.turtle import TurtleWriter

# Formats by the end of the file's name. "json" is the submission format, "neo4j" a folder.
SUFFIXES = {".json": "json", ".jsonl": "jsonl", ".csv": "csv", ".ttl": "turtle", ".graphml": "graphml"}


class ResultWriter(Protocol):
    """Writes results, one after the other."""

    def write(self, result: ExtractedDocument) -> None:
        """Write the triples of a document."""
        ...


class _FileWriter(ResultWriter, Protocol):
    def close(self) -> None:
        """Write the end of the file."""
        ...


_WRITERS: dict[str, Callable[[IO[str], EntityIds], _FileWriter]] = {
    "csv": TableWriter,
    "turtle": TurtleWriter,
    "graphml": GraphmlWriter,
}


def format_of(out: Path, given: str | None) -> str:
    """Return the format of a file: the given one, or by the end of its name. Standard output (-) gets lines.

    Raises:
        UserError: there is none of this name, or standard output cannot hold it.
    """
    if str(out) == "-":
        if given not in (None, "jsonl"):
            raise UserError(f"--out - writes lines of JSON: give a file for --format {given}")
        return "jsonl"
    if given is not None:
        return given
    name = SUFFIXES.get(out.suffix.lower())
    if name is None:
        known = ", ".join(SUFFIXES)
        raise UserError(
            f"--out {out}: the end of its name tells no format ({known}): choose another name, or give --format "
            "(neo4j writes a folder)"
        )
    return name


@contextmanager
def graph_writer(out: Path, format: str, ids: EntityIds) -> Iterator[ResultWriter]:
    """Open a file of csv, turtle or graphml, or a folder of neo4j. It appears only when the block ends well.

    Raises:
        UserError: it cannot be written.
    """
    if format == "neo4j":
        if out.exists() and not out.is_dir():
            raise UserError(f"{out} is a file: --format neo4j writes a folder with {NODES} and {RELATIONSHIPS}")
        with replacing(out / NODES) as nodes, replacing(out / RELATIONSHIPS) as relationships:
            yield Neo4jWriter(nodes, relationships, ids)
        return
    with replacing(out) as file:
        writer = _WRITERS[format](file, ids)
        yield writer
        writer.close()
