from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from lmrc.common.errors import RunError
from lmrc.config.schema import PromptOptions
from lmrc.corpus.candidates import Candidate, Candidates, RelationLogit, write_candidates
from lmrc.corpus.corpus import Corpus
from lmrc.rc.answers import GENERATIONS, asked_pairs, check_answers
from tests.fusion.examples import labeled
from tests.fusion.files import candidates_of, write_inputs, write_run

SOURCE = labeled(6)


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Corpus, Candidates, Path]:
    return write_inputs(SOURCE, tmp_path)


def write_other(folder: Path, corpus: Corpus, rows: list[list[Candidate]]) -> Candidates:
    write_candidates([(document.title, row) for document, row in zip(corpus, rows, strict=True)], folder, "0" * 64, 0.1)
    return Candidates.open(folder)


def test_documents_of_the_run(inputs: tuple[Corpus, Candidates, Path]) -> None:
    corpus, candidates, run = inputs
    assert check_answers(run, candidates, corpus) == 6
    given = {"corpus": str(corpus.folder), "candidates": str(candidates.folder)}
    write_run(run, **given, documents=4)
    assert check_answers(run, candidates, corpus) == 4
    write_run(run, **given, documents=40)
    assert check_answers(run, candidates, corpus) == 6


@pytest.mark.parametrize("is_moved", [True, False])
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (True, "for 'document 2', 0 of its 12 pairs are not there, and 1 of the 13 there were not asked about"),
        (False, "for 'document 2', 1 of its 12 pairs are not there, and 0 of the 11 there were not asked about"),
    ],
)
def test_pairs_of_other_candidates(
    inputs: tuple[Corpus, Candidates, Path], more: bool, message: str, is_moved: bool
) -> None:
    """The fingerprint of the run's candidates tells nothing if they were moved or proposed again in place."""
    corpus, candidates, run = inputs
    rows = candidates_of(SOURCE)
    if more:
        free = next((7, tail) for tail in range(7) if (7, tail) not in {(pair.head, pair.tail) for pair in rows[2]})
        rows[2].append(Candidate(*free, 0.2, rows[2][0].relations))
    else:
        rows[2].pop()
    shutil.rmtree(candidates.folder)
    other = write_other(candidates.folder.with_name("other") if is_moved else candidates.folder, corpus, rows)
    with pytest.raises(RunError, match=message):
        check_answers(run, other, corpus)


@pytest.mark.parametrize("line", ["{", '{"document": 0}', '{"document": 0, "pairs": [[1]]}', "[]"])
def test_damaged_or_missing_pairs(inputs: tuple[Corpus, Candidates, Path], line: str) -> None:
    corpus, candidates, run = inputs
    with (run / GENERATIONS).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(RunError, match=r"generations.jsonl is damaged"):
        check_answers(run, candidates, corpus)
    (run / GENERATIONS).unlink()
    with pytest.raises(RunError, match=r"generations.jsonl cannot be read .*: give a whole run folder"):
        check_answers(run, candidates, corpus)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": {"kind": "rcp-llm"}}, "its LM says Yes or No, but a fusion needs an LM that names relations"),
        ({"rc": "gone/best"}, "the adapter of its LM, .*gone/best, is missing.*: put it back"),
    ],
)
def test_lm_that_a_fusion_cannot_use(
    inputs: tuple[Corpus, Candidates, Path], change: dict[str, Any], message: str
) -> None:
    corpus, candidates, run = inputs
    write_run(run, corpus=str(corpus.folder), candidates=str(candidates.folder), **change)
    with pytest.raises(RunError, match=message):
        check_answers(run, candidates, corpus)


def test_pairs_that_an_lm_is_asked_about(tmp_path: Path) -> None:
    """Kind likelihood asks about relations, so that a pair without a probable one is not asked about."""
    sure, unsure = RelationLogit("P17", 2.0), RelationLogit("P17", -9.0)
    candidates = [Candidate(0, 1, 0.5, (sure,)), Candidate(1, 0, 0.5, (unsure,)), Candidate(2, 0, 0.5)]
    assert asked_pairs(candidates, PromptOptions(kind="rc")) == [(0, 1), (1, 0), (2, 0)]
    assert asked_pairs(candidates, PromptOptions(kind="likelihood", min_relation_probability=0.01)) == [(0, 1)]
