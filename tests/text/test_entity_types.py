from __future__ import annotations

from lmrc.text.entity_types import TypeMap

DOCRED = ("LOC", "MISC", "NUM", "ORG", "PER", "TIME")


def test_types_of_other_schemes() -> None:
    types = TypeMap(DOCRED)
    given = ["PERSON", "GPE", "DATE", "work of art", "Organisation", "LOC", "Gene"]
    assert [types.map(type) for type in given] == ["PER", "LOC", "TIME", "MISC", "ORG", "LOC", "MISC"]
    types.map("GPE")
    assert str(types).startswith("entity types: 2 GPE as LOC, 1 PERSON as PER")
    assert "LOC as LOC" not in str(types)


def test_a_model_with_types_of_its_own_keeps_them() -> None:
    types = TypeMap(("Gene", "person"))
    assert [types.map(type) for type in ("Gene", "person", "GPE")] == ["Gene", "person", "GPE"]
    assert str(types) == ""


def test_a_model_without_types_changes_names_of_docreds_types_only() -> None:
    types = TypeMap(())
    assert [types.map(type) for type in ("Gene", "person", "LOC")] == ["Gene", "PER", "LOC"]
