"""brat: standoff annotations are checked against the text, and every kind of line is carried over or counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmrc.common.errors import UserError
from lmrc.convert.convert import convert
from lmrc.convert.formats import FORMATS
from tests.convert.examples import converted, entities, sentences, triples

TEXT = "Ada Lum bought Tamm\nWorks. She sold it to Orr Bank (OB). Ovarian and skin cancer spread.\n"


def spans(*names: str) -> str:
    """Return the offsets of the first occurrence of each name."""
    return ";".join(f"{TEXT.index(name)} {TEXT.index(name) + len(name)}" for name in names)


ANNOTATIONS = f"""\
T1\tPerson {spans("Ada Lum")}\tAda Lum
T2\tOrg {spans("Tamm", "Works")}\tTamm Works
T3\tPerson {spans("She")}\tShe
T4\tOrg {spans("it")}\tit
T5\tOrg {spans("Orr Bank")}\tOrr Bank
T6\tOrg {spans("OB")}\tOB
T7\tSell {spans("sold")}\tsold
T8\tDisease {spans("Ovarian", "cancer")}\tOvarian cancer
*\tEquiv T1 T3
R1\tCoreference Anaphor:T4 Antecedent:T2
R2\tOwner-Of Arg1:T1 Arg2:T2\t
R3\tOwner-Of Arg2:T4 Arg1:T5
R4\tCauses Arg1:E1 Arg2:T8
E1\tSell:T7 Seller:T3 Buyer:T5
A1\tNegation E1
M1\tSpeculation E1
N1\tReference T5 Wikidata:Q1\tOrr Bank
N2\tReference T6 Wikidata:Q1\tOrr Bank
#1\tAnnotatorNotes T1\tcheck this
"""


def write(folder: Path, name: str, annotations: str, text: str = TEXT) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.txt").write_bytes(text.encode())
    (folder / f"{name}.ann").write_text(annotations)
    return folder / f"{name}.ann"


@pytest.mark.parametrize("given", ["deal.ann", "deal.txt", "."])
def test_every_kind_of_line(tmp_path: Path, given: str) -> None:
    write(tmp_path / "brat", "deal", ANNOTATIONS)
    (document,), remarks, relations = converted(tmp_path / "brat" / given, "brat")
    assert document["title"] == "deal"
    assert sentences(document) == [
        "Ada Lum bought Tamm Works .",
        "She sold it to Orr Bank ( OB ) .",
        "Ovarian and skin cancer spread .",
    ]
    assert entities(document) == [
        ["Person: Ada Lum", "Person: She"],
        ["Org: Tamm Works", "Org: it"],
        ["Org: Orr Bank", "Org: OB"],
        ["Sell: sold"],
        ["Disease: Ovarian and skin cancer"],
    ]
    assert triples(document) == [
        (0, "Owner-Of", 1, [0]),
        (2, "Owner-Of", 1, [1]),
        (3, "Causes", 4, [1, 2]),
        (3, "Seller", 0, [1]),
        (3, "Buyer", 2, [1]),
    ]
    assert relations == ["Buyer", "Causes", "Owner-Of", "Seller"]
    assert remarks == {
        "discontinuous mentions, now with the words between their parts": 1,
        "relations Coreference, now one entity": 1,
        "arguments of events, now relations of the trigger": 2,
        "attributes left out": 2,
        "notes left out": 1,
        "entries in knowledge bases left out, which joined mentions": 2,
        "sentences, split by rule": 3,
    }


def test_a_relation_between_further_mentions_adds_its_sentences(tmp_path: Path) -> None:
    text = "Ada left Orr. She saw it. It was big."
    annotations = (
        "T1\tP 0 3\tAda\nT2\tL 9 12\tOrr\nT3\tP 14 17\tShe\nT4\tL 22 24\tit\n*\tEquiv T1 T3\n*\tEquiv T2 T4\n"
        "R1\tLeft Arg1:T1 Arg2:T2\nR2\tLeft Arg1:T3 Arg2:T4\n"
    )
    (document,), remarks, _ = converted(write(tmp_path / "brat", "x", annotations, text), "brat")
    assert triples(document) == [(0, "Left", 1, [0, 1])]
    assert remarks["repeated relations kept once"] == 1


def test_folder_with_documents_in_folders(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    write(folder / "a", "one", ANNOTATIONS)
    write(folder / "b", "one", ANNOTATIONS)
    write(folder / "b", "two", "")
    documents, remarks, _ = converted(folder, "brat")
    assert [document["title"] for document in documents] == ["one", "one (2)"]
    assert remarks["documents without an entity left out"] == 1


def test_line_ends_of_windows_count_twice(tmp_path: Path) -> None:
    text = "Ada Lum\r\nleft Orr.\r\n"
    path = write(
        tmp_path / "brat", "x", "T1\tPer 0 7\tAda Lum\r\nT2\tLoc 14 17\tOrr\r\nR1\tleft Arg1:T1 Arg2:T2\r\n", text
    )
    (document,), remarks, _ = converted(path, "brat")
    assert entities(document) == [["Per: Ada Lum"], ["Loc: Orr"]]
    assert remarks == {"sentences, split by rule": 1}


def test_offsets_of_bytes_and_unknown_arguments(tmp_path: Path) -> None:
    # "é" is two bytes, so that offsets of bytes are one late behind it.
    annotations = "T1\tPer 0 4\tRené\nT2\tLoc 11 14\tOrr\nR1\tin Arg1:T1 Arg2:T9\nR2\tin Arg1:T1 Arg2:R1\n"
    (document,), remarks, _ = converted(write(tmp_path / "brat", "x", annotations, "René left Orr."), "brat")
    assert entities(document) == [["Per: René"], ["Loc: Orr"]]
    assert remarks == {
        "mentions whose name is not the text at their offsets, moved to its nearest occurrence": 1,
        "relations of an entity without a mention left out": 2,
        "sentences, split by rule": 1,
    }


def test_a_discontinuous_mention_over_two_sentences_keeps_its_longest_part(tmp_path: Path) -> None:
    text = "Big firms fell. They sold shares."
    annotations = "T1\tX 0 9;16 20\tBig firms They\nT2\tX 10 14\tfell\n"
    (document,), remarks, _ = converted(write(tmp_path / "brat", "x", annotations, text), "brat")
    assert sentences(document) == ["Big firms fell .", "They sold shares ."]
    assert entities(document) == [["X: Big firms"], ["X: fell"]]
    assert remarks["discontinuous mentions over several sentences, now their longest part"] == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("T1\tPerson 0\tAda", "line 1 is .*, expected ID, tab, type, start and end"),
        ("R1\tOwns Arg1:T1", "expected ID, tab, type Arg1:ID Arg2:ID"),
        ("E1\tSell", "expected ID, tab, type:trigger role:ID"),
        ("X1\tSell", "expected a line that begins with T, R, E, A, M, N"),
    ],
)
def test_errors(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        convert(write(tmp_path / "brat", "x", line), tmp_path / "out.json", FORMATS["brat"])


@pytest.mark.parametrize(("removed", "given"), [(".txt", ".ann"), (".ann", ".txt")])
def test_one_of_both_files_is_missing(tmp_path: Path, removed: str, given: str) -> None:
    path = write(tmp_path / "brat", "x", ANNOTATIONS)
    path.with_suffix(removed).unlink()
    with pytest.raises(UserError, match=rf"x\{given}: x\{removed} is not beside it; brat has a text in NAME.txt and"):
        convert(path.with_suffix(given), tmp_path / "out.json", FORMATS["brat"])
