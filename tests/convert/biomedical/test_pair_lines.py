"""Lines of candidate pairs, as CDR and GDA are published with the code of the field."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmrc.common.errors import UserError
from lmrc.convert.biomedical.pair_lines import is_pair_line
from lmrc.convert.convert import convert
from lmrc.convert.formats import FORMATS
from tests.convert.examples import converted, entities, sentences, triples

# Identifier, names, type, starts, ends, sentences. Made up.
DRUG = ["D009", "Naloxine|NLX", "Chemical", "0:5", "1:6", "0:1"]
OTHER = ["D003", "clonidix", "Chemical", "3", "4", "0"]
ILLNESS = ["D010", "X disorder", "Disease", "7", "9", "1"]
TEXT = "Naloxine stops the clonidix|. NLX causes X disorder ."


def line(*pairs: tuple[str, str, list[str], list[str]], identifier: str = "17", text: str = TEXT) -> str:
    columns = [identifier, text]
    for relation, direction, first, second in pairs:
        columns += [relation, direction, "NON-CROSS", "3-4", "2-3", *first, *second]
    return "\t".join(columns) + "\n"


def test_pairs(tmp_path: Path) -> None:
    path = tmp_path / "train_filter.data"
    path.write_text(
        line(
            ("1:CID:2", "L2R", DRUG, ILLNESS),
            ("1:NR:2", "L2R", OTHER, ILLNESS),
            ("not_include", "R2L", ILLNESS, OTHER),
            ("1:CID:2", "R2L", ILLNESS, OTHER),
            ("2:INV:1", "L2R", DRUG, OTHER),
            ("1:CID:2", "L2R", DRUG, ILLNESS),
        )
        + line(("1:GDA:2", "L2R", OTHER, DRUG), identifier="18", text="Gene is long in Y and more .")
    )
    (document, second), remarks, relations = converted(path, "cdr")
    assert relations == ["CID", "GDA", "INV"]
    assert sentences(document) == ["Naloxine stops the clonidix", ". NLX causes X disorder ."]
    assert entities(document) == [
        ["Chemical: Naloxine", "Chemical: NLX"],
        ["Disease: X disorder"],
        ["Chemical: clonidix"],
    ]
    assert [triple[:3] for triple in triples(document)] == [(0, "CID", 1), (2, "CID", 1), (2, "INV", 0)]
    assert (second["title"], triples(second)) == ("18", [(0, "GDA", 1, [])])
    assert remarks == {
        "pairs of no relation, which have no label": 1,
        "pairs that the file excludes (not_include), which have no label": 1,
        "repeated relations kept once": 1,
    }


def test_a_span_outside_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "a.data"
    path.write_text(line(("1:CID:2", "L2R", DRUG, [*ILLNESS[:3], "70", "90", "1"])))
    (document,), remarks, _ = converted(tmp_path, "gda")  # a folder
    assert entities(document) == [["Chemical: Naloxine", "Chemical: NLX"]]
    assert remarks["mentions outside of the text left out"] == 1
    assert remarks["relations of an entity without a mention left out"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text + "\t".join(["18", "a", *"x" * 16]) + "\n", "line 2 has 18 columns, expected an identifier"),
        (lambda text: text.replace("0:5", "0:x"), "line 1: the mentions '0:x' to '1:6' are no tokens"),
        (lambda text: text.replace("1:6", "1"), "line 1: the mentions '0:5' to '1' are no tokens"),
    ],
)
def test_errors(tmp_path: Path, change: object, message: str) -> None:
    path = tmp_path / "a.data"
    assert callable(change)
    path.write_text(change(line(("1:CID:2", "L2R", DRUG, ILLNESS))))
    with pytest.raises(UserError, match=message):
        convert(path, tmp_path / "out.json", FORMATS["pubtator"])


def test_other_lines_are_no_pairs() -> None:
    assert is_pair_line(line(("1:CID:2", "L2R", DRUG, ILLNESS)).encode())
    for text in ("17|t|a", "17\t0\t8\tNaloxine\tChemical\tD009\n", "\t".join("a" * 19), ""):
        assert not is_pair_line(text.encode())
