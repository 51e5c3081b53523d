from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

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
        ('["a", 1]', "expected an object"),
        ('["a", "a"]', "relation 'a' occurs twice"),
        ('[{"0": "a"}, {"b": 0}]', "two objects, and one is not the inverse of the other"),
        ('[{"0": "a"}]', "expected an object"),
        ('{"a": [], "b": "x"}', "relation 'a' has the name"),
        ('{"a": [["x"]]}', "relation 'a' has the name"),
        ("{}", "holds no relations"),
        ('{"a": 3, "b": "x"}', "relation 'a' has the name 3"),
        ('{"a": " "}', "relation 'a' has the name \" \""),
        ('{"Na": 0}', "holds no relations"),
        ('{"Na": 0, "a": 1, "b": 1}', "the relations 'a' and 'b' both have the number 1"),
        ('{"0": "NA", "1": "x", "2": "x"}', "relation 'x' occurs twice"),
        ('{"a": true}', "relation 'a' has the name true"),
        ("404: Not Found", "is not JSON .* begins with '404: Not Found'"),
        ("version https://git-lfs.github.com/spec/v1\nsize 7\n", "pointer of Git LFS for a file of 7 bytes"),
        ('{"a": "x", "b": "x"}', "'a' and 'b' are both named 'x'"),
        ('{"a": "x", "a": "y"}', "id 'a' occurs twice"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(UserError, match=f"r.json: .*{message}"):
        read_relations(tmp_path / "r.json")


def test_rel2id_gives_names_in_the_order_of_the_numbers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "rel2id.json").write_text('{"lies_in": 2, "Na": 0, "works_at": 1}')
    with caplog.at_level("INFO"):
        relations = read_relations(tmp_path / "rel2id.json")
    assert relations == RelationSet(("works_at", "lies_in"), ("works_at", "lies_in"))
    assert "rel2id.json: 'Na' is left out of the relation set" in caplog.text
    # Without "no relation", nothing is left out.
    (tmp_path / "rel2id.json").write_text('{"works_at": 0, "lies_in": 1}')
    assert read_relations(tmp_path / "rel2id.json").ids == ("works_at", "lies_in")


def test_id2rel_is_known_by_its_first_entry(tmp_path: Path) -> None:
    (tmp_path / "id2rel.json").write_text('{"0": "no_relation", "10": "b", "2": "a"}')
    assert read_relations(tmp_path / "id2rel.json").ids == ("a", "b")
    (tmp_path / "r.json").write_text('{"0": "owns", "1": "sells"}')
    assert read_relations(tmp_path / "r.json") == RelationSet(("0", "1"), ("owns", "sells"))


def test_rel2id_of_docred_has_its_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    numbers = {"Na": 0} | {relation: index for index, relation in enumerate(DOCRED.ids[::-1], 1)}
    (tmp_path / "rel2id.json").write_text(json.dumps(numbers))
    with caplog.at_level("INFO"):
        relations = read_relations(tmp_path / "rel2id.json")
    assert relations == RelationSet(DOCRED.ids[::-1], DOCRED.names[::-1])
    assert "its 96 relations are DocRED's and get DocRED's names" in caplog.text


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, unique_by=str.lower), st.randoms())
def test_rel2id_and_id2rel_give_the_same_set(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], random: Random
) -> None:
    assume(not {name.lower() for name in names} & {"na", "n/a", "<na>", "none", "null"})
    folder = tmp_path_factory.mktemp("r")
    numbered = list(enumerate(["NA", *names]))
    random.shuffle(numbered)
    (folder / "rel2id.json").write_text(json.dumps({name: number for number, name in numbered}))
    (folder / "id2rel.json").write_text(json.dumps({str(number): name for number, name in numbered}))
    assert read_relations(folder / "rel2id.json").ids == read_relations(folder / "id2rel.json").ids == tuple(names)


@pytest.mark.parametrize(
    ("content", "ids", "names"),
    [
        # CasRel: both directions in a list.
        ([{"0": "/b", "1": "/a"}, {"/b": 0, "/a": 1}], ("/b", "/a"), ("/b", "/a")),
        ([{"/b": 1, "/a": 0}, {"1": "/b", "0": "/a"}], ("/a", "/b"), ("/a", "/b")),
        # Numbers as text, or with a point.
        ({"b": "1", "NA": "0", "a": "2"}, ("b", "a"), ("b", "a")),
        ({"b": 1.0, "Na": 0.0}, ("b",), ("b",)),
        (["b", "no_relation", "a"], ("b", "a"), ("b", "a")),
        # FewRel's pid2name.json: a name and a description.
        ({"P931": ["serves", "what it serves"], "P4": ["is in", "where"]}, ("P931", "P4"), ("serves", "is in")),
        # Ids that are numbers stay ids.
        ({"0": "owns", "1": "2"}, ("0", "1"), ("owns", "2")),
        ({"17": "country", "19": "birth"}, ("17", "19"), ("country", "birth")),
        ({"1": "2", "2": "1"}, ("1", "2"), ("2", "1")),
    ],
)
def test_other_files_of_the_field(
    tmp_path: Path, content: object, ids: tuple[str, ...], names: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "r.json").write_text(json.dumps(content))
    with caplog.at_level("INFO"):
        assert read_relations(tmp_path / "r.json") == RelationSet(ids, names)
    assert ("2 of 2 relations have a list of names, of which the first is taken" in caplog.text) == ("P931" in ids)
    assert ("is left out of the relation set" in caplog.text) == (
        "NA" in str(content).upper() or "no_rel" in str(content)
    )
