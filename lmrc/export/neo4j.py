"""Triples as nodes.csv and relationships.csv for `neo4j-admin database import full`."""

from __future__ import annotations

import csv
import re
from typing import IO

from lmrc.export.entities import EntityIds
from lmrc.export.result import ExtractedDocument
from lmrc.export.table import evidence_text, spans_text

NODES, RELATIONSHIPS = "nodes.csv", "relationships.csv"


class Neo4jWriter:
    """Writes the rows of both files."""

    def __init__(self, nodes: IO[str], relationships: IO[str], ids: EntityIds) -> None:
        self._ids = ids
        self._nodes, self._relationships = csv.writer(nodes), csv.writer(relationships)
        self._nodes.writerow((":ID", "name", "type", ":LABEL"))
        self._relationships.writerow(
            (":START_ID", ":END_ID", ":TYPE", "relation", "relation_name", "score:double", "document", "head_spans",
             "tail_spans", "evidence")
        )  # fmt: skip

    def write(self, result: ExtractedDocument) -> None:
        """Write the triples of a document."""
        for edge, new in self._ids.edges(result):
            for node in new:
                # A semicolon separates labels.
                label = _line(node.type.replace(";", " "))
                labels = f"Entity;{label}" if label else "Entity"
                self._nodes.writerow((node.id, _line(node.name), _line(node.type), labels))
            t = edge.triple
            self._relationships.writerow(
                (edge.head.id, edge.tail.id, relationship_type(t.relation_name), _line(t.relation),
                 _line(t.relation_name), t.score, _line(result.title), spans_text(t.head_spans),
                 spans_text(t.tail_spans), evidence_text(result, t.evidence))
            )  # fmt: skip


def _line(text: str) -> str:
    """Return a text on one line: the import refuses line ends inside of a field by default."""
    return " ".join(text.split())


def relationship_type(name: str) -> str:
    """Return the name of a relation as Neo4j writes types.

    >>> relationship_type("place of birth")
    'PLACE_OF_BIRTH'
    """
    return re.sub(r"\W+", "_", name).strip("_").upper() or "RELATED"
