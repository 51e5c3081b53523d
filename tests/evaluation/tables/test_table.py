from __future__ import annotations

import csv

from lmrc.corpus.predictions import Prediction
from lmrc.evaluation.metrics.scores import score
from lmrc.evaluation.metrics.train_facts import Facts
from lmrc.evaluation.report.artifacts import ReportItem
from lmrc.evaluation.report.page import report_items_html
from lmrc.evaluation.tables.table import Table, coverage, relation_table, remarks, score_table
from tests.evaluation.examples import RELATIONS, document, family

RIGHT = [Prediction("Family", 0, 1, "P1"), Prediction("Family", 1, 2, "P3")]
FACTS = Facts(frozenset({("Ann", "Bob", "P1")}), "train.json", "ab" * 32)


def html(table: Table) -> str:
    return "".join(report_items_html([ReportItem("name", "Title", table)]))


def test_score_table_as_text_and_markdown() -> None:
    table = score_table(
        [
            ("LMRC", score([family()], RIGHT, RELATIONS, FACTS)),
            ("no facts", score([family()], RIGHT[:1], RELATIONS)),
            ("untrained", score([family()], [], RELATIONS, FACTS)),
        ]
    )
    assert table.text() == (
        "                P      R     F1  Ign F1  Intra F1  Inter F1\n"
        "---------  ------  -----  -----  ------  --------  --------\n"
        "LMRC       100.00  66.67  80.00   80.00     66.67    100.00\n"
        "no facts   100.00  33.33  50.00       -     66.67      0.00\n"
        "untrained    0.00   0.00   0.00    0.00      0.00      0.00"
    )
    assert table.markdown().splitlines()[:3] == [
        "|  | P | R | F1 | Ign F1 | Intra F1 | Inter F1 |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| LMRC | 100.00 | 66.67 | 80.00 | 80.00 | 66.67 | 100.00 |",
    ]


def test_relation_table_is_sorted_by_gold_frequency() -> None:
    gold = [family(), document("x", [[("a", 0)], [("b", 0)]], [(0, 1, "P3")])]
    table = relation_table(score(gold, RIGHT, RELATIONS), RELATIONS)
    assert table.rows == (
        ("P3", "part of", "100.00", "50.00", "66.67", "2", "1"),
        ("P1", "country", "100.00", "100.00", "100.00", "1", "1"),
        ("P2", "born in", "0.00", "0.00", "0.00", "1", "0"),
    )
    assert relation_table(score([], [], RELATIONS), RELATIONS).rows == ()


def test_special_characters_are_escaped_in_markdown_and_html() -> None:
    table = Table(("<b>", "n"), (("a|b\n# c", "1"), ("<script>x</script>", "&")))
    assert len(table.text().splitlines()) == 4
    assert table.markdown().splitlines()[2] == "| a\\|b # c | 1 |"
    page = html(table)
    assert "<script>" not in page
    assert "&lt;script&gt;x&lt;/script&gt;" in page
    assert '<td class="number">&amp;</td>' in page


def test_rows_of_one_cell_are_headings() -> None:
    table = Table(("System", "F1"), (("First & last",), ("a_b", "1.00"), ("Ours",), ("c", "38.4 ± 10.6")))
    assert table.text().splitlines()[2:] == [
        "[First & last]",
        "a_b            1.00",
        "[Ours]",
        "c       38.4 ± 10.6",
    ]
    assert table.csv() == "group,System,F1\nFirst & last,a_b,1.00\nOurs,c,38.4 ± 10.6\n"
    assert '<th scope="colgroup" colspan="2">First &amp; last</th>' in html(table)
    assert table.markdown().splitlines()[2] == "| **First & last** |  |"


def test_hostile_cells_are_text_in_csv() -> None:
    evil = 'a\\b_{c}^2 ~ $x$ #1 50% & "q", <†>|'
    table = Table(("name", "n"), ((evil, "1"),))
    assert list(csv.reader(table.csv().splitlines())) == [["name", "n"], [evil, "1"]]


def test_remarks_name_facts_and_problems() -> None:
    predictions = [*RIGHT, RIGHT[0], Prediction("Nobody", 0, 1, "P1"), Prediction("Nobody", 0, 2, "P1")]
    predictions.append(Prediction("Family", 0, 7, "P1"))
    lines = remarks(score([family()], predictions, RELATIONS, FACTS))
    assert lines == [
        "Ign F1 (docred) leaves out 1 of 2 correct predictions: those among the 1 facts of train.json "
        f"(sha256 {'ab' * 32}).",
        "1 prediction given again; each counts once.",
        "2 predictions for a title that is not in the gold documents, such as ('Nobody', 0, 1, 'P1'): wrong.",
        "1 prediction with an entity index that the document does not have, such as ('Family', 0, 7, 'P1'): wrong.",
    ]
    elsewhere = [Prediction("Nobody", 0, tail, "P1") for tail in range(1, 4)]
    last = remarks(score([family()], elsewhere, RELATIONS))[-1]
    assert last.startswith("Warning: most predictions are for unknown titles")
    assert remarks(score([family()], RIGHT, RELATIONS)) == ["No Ign F1: no training facts were given."]


def test_coverage_is_none_if_all_documents_have_predictions() -> None:
    documents = [family(), *(document(title, [[("a", 0)], [("b", 0)]], []) for title in "xy")]
    unknown = [Prediction("Nobody", 0, 1, "P1")]
    assert coverage(score(documents[:1], RIGHT, RELATIONS)) is None
    assert coverage(score(documents[:2], [*RIGHT, *unknown], RELATIONS)) == (
        "Predictions for 1 of 2 gold documents: the other one counts as a document in which nothing was found."
    )
    assert coverage(score(documents, unknown, RELATIONS)) == (
        "Predictions for 0 of 3 gold documents: the other 3 count as documents in which nothing was found."
    )
