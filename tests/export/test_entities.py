from __future__ import annotations

from dataclasses import replace

from lmrc.export.entities import EntityIds
from tests.export.examples import result


def test_entities_of_each_document_are_its_own() -> None:
    ids = EntityIds(merge=False)
    edges = [edge for title in ("one", "two") for edge in ids.edges(result(title))]
    assert [(edge.head.id, edge.tail.id) for edge, _ in edges] == [
        ("d0-e0", "d0-e1"),
        ("d0-e0", "d0-e2"),
        ("d1-e0", "d1-e1"),
        ("d1-e0", "d1-e2"),
    ]
    assert [[node.id for node in new] for _, new in edges] == [
        ["d0-e0", "d0-e1"],
        ["d0-e2"],
        ["d1-e0", "d1-e1"],
        ["d1-e2"],
    ]
    assert (ids.entities, ids.merged) == (6, 0)


def test_entities_with_one_name_and_type_are_merged() -> None:
    ids = EntityIds(merge=True)
    one = result("one", (0, 1, "P19", 0.5))
    (first,) = one.triples
    # Spelled differently, and of another type.
    same = replace(one, triples=(replace(first, head_name='The "X"  <&>'),))
    other = replace(one, triples=(replace(first, head_type="ORG"),))
    (a, new_a), (b, new_b), (c, new_c) = (edge for found in (one, same, other) for edge in ids.edges(found))
    assert a.head is b.head and a.tail is b.tail is c.tail
    assert c.head.id != a.head.id
    assert [len(new) for new in (new_a, new_b, new_c)] == [2, 0, 1]
    assert b.head.name == 'A "x" <&>'  # that of the first
    assert (ids.entities, ids.merged) == (3, 3)
