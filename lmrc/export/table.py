"""Triples as a table in CSV, one row a triple."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from typing import IO

from lmrc.export.entities import EntityIds
from lmrc.export.result import CharacterSpan, ExtractedDocument

COLUMNS = (
    "document", "head_id", "head", "head_type", "relation", "relation_name", "tail_id", "tail", "tail_type", "score",
    "head_spans", "tail_spans", "evidence",
)  # fmt: skip


class TableWriter:
    """Writes rows to an open file. Spans are "0-7;30-38"; the evidence is the text of its sentences."""

    def __init__(self, file: IO[str], ids: EntityIds) -> None:
        self._ids = ids
        self._rows = csv.writer(file)
        self._rows.writerow(COLUMNS)

    def write(self, result: ExtractedDocument) -> None:
        """Write the triples of a document."""
        for edge, _ in self._ids.edges(result):
            t = edge.triple
            self._rows.writerow(
                (
                    result.title, edge.head.id, t.head_name, t.head_type, t.relation, t.relation_name, edge.tail.id,
                    t.tail_name, t.tail_type, t.score, spans_text(t.head_spans), spans_text(t.tail_spans),
                    evidence_text(result, t.evidence),
                )
            )  # fmt: skip

    def close(self) -> None:
        """Write nothing more: a table has no end."""


def spans_text(spans: Iterable[CharacterSpan]) -> str:
    """Return spans as text, such as "0-7;30-38"."""
    return ";".join(f"{start}-{end}" for start, end in spans)


def evidence_text(result: ExtractedDocument, sentences: Iterable[int]) -> str:
    """Return the texts of sentences on one line."""
    return " ".join(result.sentence(index) for index in sentences)
