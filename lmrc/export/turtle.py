"""Triples as RDF in Turtle, one statement a line.

A triple is `entity relation entity`, with Wikidata's properties for relations P1, P2, …. A node of the type
rdf:Statement beside it holds score, document, spans and evidence. Entities are urn:lmrc:entity:…, which no server
answers for.
"""

from __future__ import annotations

import re
from typing import IO
from urllib.parse import quote

from lmrc.export.entities import EntityIds, Node
from lmrc.export.result import ExtractedDocument
from lmrc.export.table import evidence_text, spans_text

WIKIDATA = "http://www.wikidata.org/prop/direct/"
_PREFIXES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "rdfs": "http://www.w3.org/2000/01/rdf-schema#",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
    "wdt": WIKIDATA,
    "lmrc": "urn:lmrc:",
}
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}


class TurtleWriter:
    """Writes Turtle to an open file."""

    def __init__(self, file: IO[str], ids: EntityIds) -> None:
        self._file, self._ids = file, ids
        self._relations: set[str] = set()
        self._statements = 0
        file.writelines(f"@prefix {prefix}: <{iri}> .\n" for prefix, iri in _PREFIXES.items())

    def write(self, result: ExtractedDocument) -> None:
        """Write the triples of a document."""
        for edge, new in self._ids.edges(result):
            for node in new:
                self._line(_entity(node), "rdfs:label", literal(node.name))
                if node.type:
                    self._line(_entity(node), "a", f"<urn:lmrc:type:{quote(node.type, safe='')}>")
            triple = edge.triple
            relation = relation_iri(triple.relation)
            if relation not in self._relations:
                self._relations.add(relation)
                self._line(relation, "rdfs:label", literal(triple.relation_name))
            head, tail = _entity(edge.head), _entity(edge.tail)
            self._line(head, relation, tail)
            statement = f"<urn:lmrc:statement:{self._statements}>"
            self._statements += 1
            for predicate, value in (
                ("a", "rdf:Statement"),
                ("rdf:subject", head),
                ("rdf:predicate", relation),
                ("rdf:object", tail),
                ("lmrc:score", f'"{triple.score!r}"^^xsd:double'),
                ("lmrc:document", literal(result.title)),
                ("lmrc:headSpans", literal(spans_text(triple.head_spans))),
                ("lmrc:tailSpans", literal(spans_text(triple.tail_spans))),
            ):
                self._line(statement, predicate, value)
            if triple.evidence:
                self._line(statement, "lmrc:evidence", literal(evidence_text(result, triple.evidence)))

    def close(self) -> None:
        """Write nothing more: Turtle has no end."""

    def _line(self, subject: str, predicate: str, value: str) -> None:
        self._file.write(f"{subject} {predicate} {value} .\n")


def _entity(node: Node) -> str:
    return f"<urn:lmrc:entity:{node.id}>"


def relation_iri(relation: str) -> str:
    """Return the IRI of a relation: Wikidata's property for P1, P2, …, and one of our own for other ids.

    >>> relation_iri("P19"), relation_iri("works for")
    ('wdt:P19', '<urn:lmrc:relation:works%20for>')
    """
    if re.fullmatch(r"P[1-9][0-9]*", relation):
        return f"wdt:{relation}"
    return f"<urn:lmrc:relation:{quote(relation, safe='')}>"


def literal(text: str) -> str:
    r"""Return a string of Turtle. Other control characters are written as \uXXXX.

    >>> print(literal('He said "no"'))
    "He said \"no\""
    """
    escaped = "".join(
        _ESCAPES.get(character) or (f"\\u{ord(character):04X}" if character < " " or character == "\x7f" else character)
        for character in text
    )
    return f'"{escaped}"'
