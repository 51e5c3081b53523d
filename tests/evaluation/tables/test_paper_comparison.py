from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lmrc.corpus.docred import read_documents
from lmrc.corpus.predictions import Prediction
from lmrc.corpus.relations import DOCRED, RelationSet
from lmrc.corpus.types import Document
from lmrc.evaluation.metrics.scores import score
from lmrc.evaluation.metrics.train_facts import Facts
from lmrc.evaluation.paper_scores import load_paper_tables
from lmrc.evaluation.report.artifacts import PUBLISHED, paper_items, summary_items
from lmrc.evaluation.scored_run import ScoredRun
from lmrc.evaluation.tables.paper_comparison import paper_tables, runs_by_relation
from lmrc.evaluation.tables.table import Table
from tests.conftest import ROOT
from tests.evaluation.examples import RELATIONS, family

FACTS = Facts(frozenset({("Ann", "Bob", "P1")}), "train.json", "ab" * 32)


def scored_run(
    name: str, documents: list[Document], predictions: list[Prediction], relations: RelationSet, **more: Any
) -> ScoredRun:
    scores = score(documents, predictions, relations, FACTS)
    return ScoredRun(name, documents, relations, predictions, scores, "corpora/own", **more)


def example_run() -> ScoredRun:
    """Return a run with two of three triples correct and one wrong; RCP proposed both gold pairs and two more."""
    predictions = [Prediction("Family", 0, 1, "P1"), Prediction("Family", 1, 2, "P3"), Prediction("Family", 2, 1, "P3")]
    proposed = {"Family": frozenset({(0, 1), (1, 2), (2, 1), (2, 0)})}
    return scored_run("run", [family()], predictions, RELATIONS, candidates=proposed)


def row(table: Table, name: str) -> tuple[str, ...]:
    return next(row for row in table.rows if row[0] == name)


@pytest.fixture(scope="module")
def text() -> str:
    path = Path(os.environ.get("LMRC_SHARED", ROOT.parent / "shared")) / "paper" / "lmrc.txt"
    if not path.is_file():
        pytest.skip(f"the paper is absent: no {path} (set LMRC_SHARED to the folder that holds paper/)")
    return path.read_text()


def letters(words: str) -> str:
    """Return the text without tags, spaces and LaTeX characters."""
    return re.sub(r"<.*?>|[\s$_\\*()-]", "", words)


def test_paper_json_agrees_with_the_paper(text: str) -> None:
    lines = [line.split("\t") for line in text.splitlines() if "\t" in line]
    count = 0
    for number, table in load_paper_tables().items():
        for row in table.rows:
            values = row["values"]
            found = [line for line in lines if line[-len(values) :] == values]
            # The name and the source are printed before the numbers; the source of table 4 is in the caption.
            name = letters(row["name"]).removesuffix("†")
            named = [line for line in found if name in letters(line[-len(values) - 1])]
            assert named, (number, row)
            assert row["source"] == "this paper" or row["source"] in text
            if number.startswith("3") and row["source"] != "this paper":
                assert any(letters(row["source"]) in letters(line[0]) for line in named), row
            count += len(values)
    assert count == 4 * 4 + 5 * 4 + 12 * 4 + 7 * 2 + 6 * 2 + 3 * 3 + 6 + 96 * 4


def test_samples_of_paper_json() -> None:
    tables = {
        number: {row["name"]: row["values"] for row in table.rows} for number, table in load_paper_tables().items()
    }
    assert tables["3a"]["LMRC-LLaMA2-13B-Chat"] == ["58.16", "59.97", "58.49", "60.52"]
    assert tables["3b"]["AutoRE"] == ["-", "51.91"]
    assert tables["4"]["GAIN-BERT-base"] == ["67.10", "53.90"]
    assert tables["5"]["w/o pre-classifier w LLM"] == ["31.30", "23.22", "24.59"]
    assert tables["8"]["Recall"] == ["34.49"]
    assert tables["9/10"]["country"] == ["51.87", "56.91", "64.52", "69.89"]


def test_columns_of_tables_9_and_10_agree_with_table_3() -> None:
    """In table 3, LMRC-13B has F1 59.97 and the LM alone 39.25, so LMRC must be better on frequent relations."""
    table = load_paper_tables()["9/10"]
    alone, lmrc = (table.columns.index(name) for name in ("LoRA FT 13B", "LMRC 13B"))
    top = [row["values"] for row in table.rows[:10]]
    assert all(float(values[lmrc]) > float(values[alone]) for values in top)
    assert [row["id"] for row in table.rows] != sorted(row["id"] for row in table.rows)
    assert {row["id"]: row["name"] for row in table.rows} == dict(zip(DOCRED.ids, DOCRED.names, strict=True))


def test_runs_on_other_documents_are_not_in_the_papers_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    run = example_run()
    assert (run.published, run.data) == (None, "own, 1 documents")
    assert paper_items([run]) == paper_items([]) == []
    (note,) = [line for line in summary_items([run])[0].notes if "paper" in line]
    assert note.startswith("The paper's tables are left out: no run is on a whole dev or test set of DocRED")
    monkeypatch.setattr("lmrc.evaluation.scored_run.data_set_by_statistics", lambda _: "DocRED dev")
    known = replace(example_run(), name="known")
    assert known.published == "DocRED dev"
    shown = paper_items([run, known])
    assert len(shown) == 8
    assert not any("own, 1" in exhibit.content.text() for exhibit in shown)  # type: ignore[union-attr]
    (note,) = [line for line in summary_items([run, known])[0].notes if "paper" in line]
    assert note == f"The paper's tables omit run: not on {PUBLISHED}."
    assert not any("paper" in line for line in summary_items([known])[0].notes)


def test_paper_tables_with_our_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmrc.evaluation.scored_run.data_set_by_statistics", lambda _: "Re-DocRED dev")
    run = example_run()
    tables = {source.number: table for source, table in paper_tables([run])}
    assert list(tables) == ["1", "2", "3a", "3b", "4", "5", "8", "9/10"]
    assert tables["1"].header == ("", "DocRED dev", "DocRED test", "Re-DocRED dev", "Re-DocRED test")
    # 2 of 3 predictions are correct, 2 of 3 triples are found; without the training fact 1 of 2.
    ign = 2 * 50 * (200 / 3) / (50 + 200 / 3)
    assert [row[-1] for row in tables["2"].rows] == ["66.67", "66.67", "66.67", f"{ign:.2f}", "3"]
    assert tables["2"].header[-1] == "run (Re-DocRED dev)"
    assert tables["3a"].header[-2:] == ("other data Ign F1", "other data F1")
    assert row(tables["3a"], "run") == ("run", "Re-DocRED dev", "-", "-", "-", "-", f"{ign:.2f}", "66.67")
    assert row(tables["3a"], "CoR") == ("CoR", "Sun et al., 2024", "-", "38.4 ± 10.6", "-", "38.5 ± 9.1", "-", "-")
    # Intra: 1 of 1 is correct, 1 of 2 found; inter: 1 of 2 is correct, 1 of 1 found.
    assert row(tables["4"], "run")[-2:] == ("66.67", "66.67")
    # RCP: both gold pairs and two others.
    assert row(tables["5"], "run")[-3:] == ("66.67", f"{ign:.2f}", "66.67")
    assert [line[-1] for line in tables["8"].rows] == ["66.67", "66.67", "66.67", f"{ign:.2f}", "66.67", "66.67"]
    assert row(tables["9/10"], "P17") == ("P17", "country", "51.87", "56.91", "64.52", "69.89", "-")
    assert row(tables["9/10"], "P3") == ("P3", "part of", "-", "-", "-", "-", "66.67")


def test_paper_tables_without_runs() -> None:
    tables = {source.number: table for source, table in paper_tables([])}
    assert tables["3b"].header == ("System", "Source or data", "Ign F1", "F1")
    assert ("Our runs",) not in tables["3b"].rows
    assert tables["1"].header == ("", "DocRED dev", "DocRED test", "Re-DocRED dev", "Re-DocRED test")


def test_data_set_is_recognized_by_table_1(shared_data: Path) -> None:
    dev = list(read_documents(shared_data / "redocred_dev.json", DOCRED))
    run = scored_run("whole", dev, [], DOCRED)
    assert run.data == "Re-DocRED dev"
    tables = {source.number: table for source, table in paper_tables([run])}
    assert tables["1"].header[-1] == "Re-DocRED test"  # table 1 already has this data set
    assert tables["3b"].header[-2:] == ("other data Ign F1", "other data F1")  # table 3b is on the test set
    assert scored_run("part", dev[:100], [], DOCRED).data == "own, 100 documents"


def test_relation_id_with_two_names_has_two_rows() -> None:
    other = replace(
        example_run(), name="other", relations=RelationSet(("P1", "P2", "P3"), ("country", "born in", "wife"))
    )
    table = runs_by_relation([example_run(), other])
    assert table.header == ("Relation", "Name", "run (own, 1 documents)", "other (own, 1 documents)")
    assert table.rows == (
        ("P1", "country", "100.00", "100.00"),
        ("P2", "born in", "0.00", "0.00"),
        ("P3", "part of", "66.67", "-"),
        ("P3", "wife", "-", "66.67"),
    )
