"""CoNLL-U with coreference: brackets of CorefUD and older forms become entities; there are no relations."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmrc.common.errors import UserError
from lmrc.convert.convert import convert
from lmrc.convert.formats import FORMATS
from tests.convert.examples import Converted, converted, entities, sentences


def word(number: str, form: str, misc: str = "_") -> str:
    return "\t".join([number, form, "_", "NOUN", "_", "_", "0", "dep", "_", misc])


def text_of(*lines: tuple[str, ...] | str) -> str:
    """Return a file of words and, as they are, comments and empty lines."""
    return "".join((line if isinstance(line, str) else word(*line)) + "\n" for line in lines)


def convert_text(tmp_path: Path, text: str) -> Converted:
    path = tmp_path / "coref.conllu"
    path.write_text(text)
    return converted(path, "corefud")


COREFUD = text_of(
    "# global.Entity = eid-etype-head-other",
    "# newdoc id = first",
    "# sent_id = s1",
    "# text = Ada Lum sold Tamm's shares.",
    ("1", "Ada", "Entity=(e1-person-1-new"),
    ("2", "Lum", "Entity=e1)"),
    ("3", "sold"),
    ("4", "Tamm", "Entity=(e2-abstract-3(e3-organization-1-)|SpaceAfter=No"),
    ("5", "'s"),
    ("6", "shares", "Entity=e2)|SpaceAfter=No|Bridge=e3<e2:part"),
    ("7", ".", "_"),
    "",
    "# sent_id = s2",
    ("1", "She", "Entity=(e1-person-1-giv)"),
    ("2", "wants"),
    ("2.1", "_", "Entity=(e4-person-1-)"),
    ("3", "big", "Entity=(e5[1/2]-abstract-1-"),
    ("4", "cars", "Entity=e5[1/2])"),
    ("5", "today"),
    ("6", "there", "Entity=(e5[2/2])|SplitAnte=e1<e6,e2<e6"),
    "",
    "# newdoc id = second",
    ("1-2", "del", "_"),
    ("1", "de", "_"),
    ("2", "el", "Entity=(e1--2-"),
    ("3", "rey", "Entity=e1)"),
    ("4-5", "dámelo"),
    ("4", "da", "_"),
    ("5", "lo", "_"),
    "",
)


def test_corefud(tmp_path: Path) -> None:
    (first, second), remarks, _ = convert_text(tmp_path, COREFUD)
    assert [first["title"], second["title"]] == ["first", "second"]
    assert sentences(first) == ["Ada Lum sold Tamm 's shares .", "She wants big cars today there"]
    assert entities(first) == [
        ["person: Ada Lum", "person: She"],
        ["abstract: Tamm 's shares"],
        ["organization: Tamm"],
        ["abstract: big cars today there"],
    ]
    assert first["vertexSet"][1][0]["name"] == "Tamm's shares"
    # A mention begins inside of "del", and none inside of "dámelo".
    assert sentences(second) == ["de el rey dámelo"]
    assert entities(second) == [["ENTITY: el rey"]]
    assert "labels" not in first
    assert remarks == {
        "bridging links left out": 1,
        "split antecedents left out": 2,
        "mentions of empty nodes alone left out": 1,
        "entities without a mention left out": 1,
        "discontinuous mentions, now with the words between their parts": 1,
        "words written as one, now apart, as a mention is of one of them": 1,
        "mentions without a type, now ENTITY": 1,
    }


@pytest.mark.parametrize(
    ("header", "first", "last", "again", "expected"),
    [
        (
            "# global.Entity = entity-GRP-identity",
            "(place-7-Orr_Hill",
            "place-7-Orr_Hill)",
            "(place-7-Orr_Hill)",
            "place",
        ),
        ("# global.Entity = entity-GRP", "(place-7", "place-7)", "(place-7)", "place"),
        ("# global.Entity = GRP-etype-infstat", "(7-place-new", "7)", "(7-place-giv)", "place"),
        ("# none", "(e7-place-1", "e7)", "(e7)", "place"),
        ("# none", "(place-7", "place-7)", "(place-7)", "place"),
        ("# none", "(7", "7)", "(7)", "ENTITY"),
    ],
)
def test_orders_of_the_attributes(
    tmp_path: Path, header: str, first: str, last: str, again: str, expected: str
) -> None:
    lines = [("1", "Orr", f"Entity={first}"), ("2", "Hill", f"Entity={last}"), ("3", "it", f"Entity={again}")]
    (document,), _, _ = convert_text(tmp_path, text_of(header, *lines))
    assert document["title"] == "coref"
    assert entities(document) == [[f"{expected}: Orr Hill", f"{expected}: it"]]


@pytest.mark.parametrize("header", ["# global.Entity = entity", "# none"])
def test_types_without_coreference(tmp_path: Path, header: str) -> None:
    lines = [("1", "Orr", "Entity=(place"), ("2", "Hill", "Entity=place)"), ("3", "Tamm", "Entity=(place)")]
    (document,), _, _ = convert_text(tmp_path, text_of(header, *lines))
    assert entities(document) == [["place: Orr Hill"], ["place: Tamm"]]


def test_coref_with_the_separator_of_conll_2012(tmp_path: Path) -> None:
    lines = [("1", "Ada", "Coref=(1|(2)|SpaceAfter=No"), ("2", "Lum", "Coref=1)"), ("3", "her", "Coref=(2)|(1)")]
    (document,), _, _ = convert_text(tmp_path, text_of(*lines))
    assert entities(document) == [["ENTITY: Ada Lum", "ENTITY: her"], ["ENTITY: Ada", "ENTITY: her"]]
    assert document["vertexSet"][0][0]["name"] == "AdaLum"


def test_cluster_ids_of_corefud_0_2(tmp_path: Path) -> None:
    lines = [
        ("1", "the"),
        ("2", "king", "ClusterId=c1|ClusterType=person|MentionSpan=1-2"),
        ("3", "of"),
        ("4", "Orr", "ClusterId[1]=c2|MentionSpan[1]=4|ClusterId[2]=c1|MentionSpan[2]=1-2,4"),
    ]
    (document,), remarks, _ = convert_text(tmp_path, text_of(*lines))
    assert entities(document) == [["person: the king", "person: the king of Orr"], ["ENTITY: Orr"]]
    assert remarks["discontinuous mentions, now with the words between their parts"] == 1


def test_a_column_of_conllu_plus_and_pointers(tmp_path: Path) -> None:
    text = "# global.columns = ID FORM COREF\n1\tAda\t(0)\n2\tleft\t_\n3\tOrr\t(1)|(0\n4\tnow\t0)\n5\tago\t12.8\n"
    (document,), remarks, _ = convert_text(tmp_path, text)
    assert entities(document) == [["ENTITY: Ada", "ENTITY: Orr now"], ["ENTITY: Orr"]]
    assert remarks["coreference attributes in no form of brackets left out"] == 1


def test_a_mention_over_two_sentences(tmp_path: Path) -> None:
    text = text_of(("1", "Ada", "Entity=(e1-x"), "", ("1", "left", "Entity=e1)"), ("2", "."), "")
    (document,), remarks, _ = convert_text(tmp_path, text)
    assert sentences(document) == ["Ada left ."]
    assert remarks["sentences joined with the one before, as a mention is in both"] == 1


def test_a_mention_at_the_line_of_several_words(tmp_path: Path) -> None:
    lines = [("1-2", "dámelo", "Entity=(e1-x)"), ("1", "da"), ("2", "lo"), ("3", "Ada", "Entity=(e2-x)")]
    (document,), _, _ = convert_text(tmp_path, text_of(*lines))
    assert entities(document) == [["x: dámelo"], ["x: Ada"]]


def test_brackets_without_a_partner(tmp_path: Path) -> None:
    lines = [("1", "Ada", "Entity=(e1-x(e2-x)"), ("2", "left", "Entity=e3)"), ("3", "Orr", "Entity=(e2-x)")]
    (document,), remarks, _ = convert_text(tmp_path, text_of(*lines))
    assert entities(document) == [["x: Ada", "x: Orr"]]
    assert remarks == {"brackets that end no mention left out": 1, "mentions that never end left out": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\tAda\n", "line 1 has 2 columns separated by tabs, expected 10"),
        (text_of(("a", "Ada")), "line 1 begins with 'a', expected the number of a word"),
        (text_of(("1", "Ada", "ClusterId=c1|MentionSpan=1-2")), "MentionSpan=1-2 at 'Ada' names a word that is not"),
    ],
)
def test_errors(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "coref.conllu"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        convert(path, tmp_path / "out.json", FORMATS["conllu"])
