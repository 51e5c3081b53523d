"""Identity of entities over documents: each document's own, or one entity for equal names and types."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from lmrc.export.result import ExtractedDocument, ExtractedTriple
from lmrc.text.coreference import normal_name


class Node(NamedTuple):
    """An entity of a graph: an id of letters, digits and "-", a name and a type."""

    id: str
    name: str
    type: str


class Edge(NamedTuple):
    """A triple of a graph, and the number of its document."""

    head: Node
    tail: Node
    triple: ExtractedTriple
    document: ExtractedDocument
    number: int


class EntityIds:
    """Gives ids to entities, and yields triples as edges between them.

    Attributes:
        entities: number of entities with a triple.
        merged: number of entities that were another one's, in another document.
    """

    def __init__(self, merge: bool) -> None:
        """Start without documents.

        Args:
            merge: entities of all documents with one normalized name and type are one. The name is that of the first.
        """
        self._merge = merge
        self._nodes: dict[str, Node] = {}
        self._documents = 0
        self.entities = self.merged = 0

    def edges(self, result: ExtractedDocument) -> Iterator[tuple[Edge, list[Node]]]:
        """Yield the triples of the next document, each with those of its nodes that were in no edge before."""
        number = self._documents
        self._documents += 1
        seen: set[int] = set()
        for triple in result.triples:
            new: list[Node] = []
            nodes = []
            for index, name, type in (
                (triple.head, triple.head_name, triple.head_type),
                (triple.tail, triple.tail_name, triple.tail_type),
            ):
                node = self._node(number, index, name, type)
                if index not in seen:
                    seen.add(index)
                    if self._is_new(node):
                        new.append(node)
                        self.entities += 1
                    else:
                        self.merged += 1
                nodes.append(node)
            yield Edge(nodes[0], nodes[1], triple, result, number), new

    def _is_new(self, node: Node) -> bool:
        if not self._merge:
            return True
        is_new = node.id not in self._nodes
        self._nodes[node.id] = node
        return is_new

    def _node(self, number: int, index: int, name: str, type: str) -> Node:
        if not self._merge:
            return Node(f"d{number}-e{index}", name, type)
        key = f"{type}\n{normal_name(name)}".encode("utf-8", "backslashreplace")
        id = f"e-{hashlib.sha256(key).hexdigest()[:20]}"
        return self._nodes.get(id) or Node(id, name, type)
