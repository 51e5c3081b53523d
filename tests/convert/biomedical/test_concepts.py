"""Identifiers of concepts: several in one, variants, and none."""

from __future__ import annotations

from collections import Counter

import pytest

from lmrc.convert.annotations import Annotations
from lmrc.convert.biomedical.concepts import concepts, resolve


@pytest.mark.parametrize(
    ("identifiers", "expected"),
    [
        ("D003", ["D003"]),
        ("D010|D001", ["D010", "D001"]),
        ("12;13", ["12", "13"]),
        ("12, 13,12", ["12", "13"]),
        ("p|SUB|V|600|E", ["p|SUB|V|600|E"]),
        ("c|DEL|12_14|,rs12", ["c|DEL|12_14|", "rs12"]),
        ("tmVar:p|SUB|V|600|E;HGVS:p.V600E;RS#:1", ["tmVar:p|SUB|V|600|E;HGVS:p.V600E;RS#:1"]),
        ("-1", []),
        ("-", []),
        ("None", []),
        ("", []),
    ],
)
def test_concepts(identifiers: str, expected: list[str]) -> None:
    assert concepts(identifiers) == expected


def test_arguments_of_relations() -> None:
    annotations = Annotations("1", Counter())
    annotations.add_mention([(0, 1)], "Chemical")
    annotations.entities = {"D003": [0], "MESH:D004": [], "p|SUB|V|600|E": []}
    assert resolve("D003", annotations) == ["D003"]
    assert resolve("MESH:D003", annotations) == ["D003"]
    assert resolve("Chemical|MESH:D004", annotations) == ["MESH:D004"]
    assert resolve("D003;D004", annotations) == ["D003", "MESH:D004"]
    assert resolve("p|SUB|V|600|E", annotations) == ["p|SUB|V|600|E"]
    assert resolve("-1", annotations) == ["-1"]
