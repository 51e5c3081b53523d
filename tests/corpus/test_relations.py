from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmrc.common.errors import UserError
from lmrc.corpus.relations import DOCRED, RelationSet, read_relations


def test_docred_equals_the_published_file(shared_data: Path) -> None:
    published = json.loads((shared_data / "rel_info.json").read_text())
    assert list(zip(DOCRED.ids, DOCRED.names, strict=True)) == list(published.items())
    assert read_relations(shared_data / "rel_info.json") == DOCRED


def test_docred_has_96_relations_by_number() -> None:
    numbers = [int(relation.removeprefix("P")) for relation in DOCRED]
    assert len(DOCRED) == 96
    assert numbers == sorted(numbers)


def test_ids_names_and_indices() -> None:
    relations = RelationSet(("R2", "R1"), ("owns", "part of"))
    assert (relations.index("R2"), relations.index("R1")) == (0, 1)
    assert relations.name("R1") == "part of"
    assert relations.id("part of") == "R1"
    assert "R1" in relations and "R3" not in relations and 7 not in relations
    assert list(relations) == ["R2", "R1"]


def test_unknown_relation_gets_a_suggestion() -> None:
    with pytest.raises(UserError, match=r"^unknown relation 'P10011'; did you mean P1001\?"):
        DOCRED.index("P10011")
    with pytest.raises(UserError, match=r"^unknown relation name 'place of brith'; did you mean place of birth\?"):
        DOCRED.id("place of brith")


def test_different_sets_and_orders_have_different_hashes() -> None:
    sets = [
        RelationSet(("a", "b"), ("x", "y")),
        RelationSet(("b", "a"), ("y", "x")),
        RelationSet(("a", "b"), ("x", "z")),
        RelationSet(("a",), ("x",)),
    ]
    assert len({relations.sha256 for relations in sets}) == 4
    assert RelationSet(("a", "b"), ("x", "y")).sha256 == sets[0].sha256


@pytest.mark.parametrize(("ids", "names"), [(("a", "a"), ("x", "y")), (("a", "b"), ("x", "x")), (("a",), ())])
def test_duplicates_and_missing_names_are_refused(ids: tuple[str, ...], names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError):
        RelationSet(ids, names)


def test_order_of_the_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"zz": "owns", "aa": "is größer"}', encoding="utf-8")
    assert read_relations(tmp_path / "r.json") == RelationSet(("zz", "aa"), ("owns", "is größer"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "expected an object"),
        ("{}", "holds no relations"),
        ('{"a": 3}', "relation 'a' has the name 3"),
        ('{"a": " "}', "relation 'a' has the name ' '"),
        ('{"a": "x", "b": "x"}', "'a' and 'b' are both named 'x'"),
        ('{"a": "x", "a": "y"}', "id 'a' occurs twice"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(UserError, match=f"r.json: .*{message}"):
        read_relations(tmp_path / "r.json")
