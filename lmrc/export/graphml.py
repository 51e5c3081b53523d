"""Triples as GraphML, a directed multigraph that networkx, Gephi and yEd read."""

from __future__ import annotations

import re
from typing import IO
from xml.sax.saxutils import escape, quoteattr

from lmrc.export.entities import EntityIds
from lmrc.export.result import ExtractedDocument
from lmrc.export.table import evidence_text, spans_text

_KEYS = (
    ("node", "name", "string"),
    ("node", "type", "string"),
    ("edge", "relation", "string"),
    ("edge", "relation_name", "string"),
    ("edge", "score", "double"),
    ("edge", "document", "string"),
    ("edge", "head_spans", "string"),
    ("edge", "tail_spans", "string"),
    ("edge", "evidence", "string"),
)
# Characters that XML 1.0 cannot hold, not even escaped.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")

# A reader of XML takes a carriage return for the end of a line, unless it is escaped.
_LINE_END = {"\r": "&#13;"}


class GraphmlWriter:
    """Writes GraphML to an open file."""

    def __init__(self, file: IO[str], ids: EntityIds) -> None:
        self._file, self._ids = file, ids
        self._edges = 0
        file.write('<?xml version="1.0" encoding="UTF-8"?>\n<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n')
        for element, name, type in _KEYS:
            file.write(f'<key id="{name}" for="{element}" attr.name="{name}" attr.type="{type}"/>\n')
        file.write('<graph id="triples" edgedefault="directed">\n')

    def write(self, result: ExtractedDocument) -> None:
        """Write the triples of a document."""
        for edge, new in self._ids.edges(result):
            for node in new:
                self._file.write(f'<node id="{node.id}">{_data(name=node.name, type=node.type)}</node>\n')
            triple = edge.triple
            data = _data(
                relation=triple.relation,
                relation_name=triple.relation_name,
                score=repr(triple.score),
                document=result.title,
                head_spans=spans_text(triple.head_spans),
                tail_spans=spans_text(triple.tail_spans),
                evidence=evidence_text(result, triple.evidence),
            )
            ends = f"source={quoteattr(edge.head.id)} target={quoteattr(edge.tail.id)}"
            self._file.write(f'<edge id="t{self._edges}" {ends}>{data}</edge>\n')
            self._edges += 1

    def close(self) -> None:
        """Write the end of the graph."""
        self._file.write("</graph>\n</graphml>\n")


def _data(**values: str) -> str:
    """Return the data elements of a node or an edge. Characters that XML cannot hold become U+FFFD."""
    return "".join(
        f'<data key="{key}">{escape(_FORBIDDEN.sub(chr(0xFFFD), text), _LINE_END)}</data>'
        for key, text in values.items()
    )
