from __future__ import annotations

import pytest

from lmrc.common.errors import UserError
from lmrc.corpus.predictions import Prediction, Predictions
from lmrc.corpus.types import Document, Label
from lmrc.evaluation.metrics.coverage import System, select
from lmrc.evaluation.metrics.gold_table import Gold
from lmrc.evaluation.metrics.scores import score, scores_of
from lmrc.evaluation.metrics.triple_table import Triples
from tests.evaluation.examples import RELATIONS, document

DOCUMENTS = [document(f"d{number}", [[("a", 0)], [("b", 0)]], [(0, 1, "P1")]) for number in range(20)]
GOLD = Gold.of(DOCUMENTS, RELATIONS)


def system(
    name: str, numbers: range | list[int], classified: range | None = None, more: tuple[str, ...] = ()
) -> System:
    """Return predictions for the documents with these numbers and for the titles `more`; of a run if `classified`."""
    found = [Prediction(title, 0, 1, "P1", None, (0,)) for title in (*(f"d{number}" for number in numbers), *more)]
    titles = None if classified is None else frozenset(f"d{number}" for number in classified)
    return System(name, Predictions.of(found), titles)


def test_all_documents_are_scored_if_nearly_all_are_covered() -> None:
    for systems in (
        [system("p", range(20))],
        [system("p", range(10))],
        [system("p", range(20)), system("q", range(18))],
        [system("run", range(3), range(20))],
        [system("nothing", [])],
        [system("p", range(20)), system("elsewhere", [], more=("Nobody",))],
    ):
        selection = select(GOLD, systems)
        assert selection.gold is GOLD
        assert (selection.left_out, selection.lines) == (frozenset(), ())


def test_partial_file_needs_missing() -> None:
    part = system("p.json", range(9), more=("Nobody",))
    with pytest.raises(UserError) as refused:
        select(GOLD, [part])
    assert str(refused.value).startswith(
        "p.json has predictions for 9 of the 20 gold documents (and for 1 titles that are not among them): "
        "give --missing empty "
    )
    assert select(GOLD, [part], "empty").gold is GOLD
    skipped = select(GOLD, [part], "skip")
    assert skipped.gold.titles == GOLD.titles[:9]
    assert skipped.left_out == set(GOLD.titles[9:])
    assert skipped.lines[-1] == "Scores are over 9 of 20 gold documents; 11 are left out."


def test_files_that_cover_different_documents_are_rejected() -> None:
    systems = [system("all", range(20)), system("some", range(17))]
    with pytest.raises(UserError, match="some has no prediction for 3 of the 20 documents, but the other"):
        select(GOLD, systems)
    assert select(GOLD, systems, "empty").gold is GOLD
    assert len(select(GOLD, systems, "skip").gold) == 17
    with pytest.raises(UserError, match="first has no prediction for 8 of the 20 documents"):
        select(GOLD, [system("first", range(12)), system("second", range(8, 20))])


def test_runs_are_scored_on_documents_that_all_classified() -> None:
    first, second = system("one", range(4), range(5)), system("other", range(20), range(20))
    for missing in (None, "skip"):
        selection = select(GOLD, [first, second], missing)  # type: ignore[arg-type]
        assert selection.gold.titles == GOLD.titles[:5]
        assert selection.lines == (
            "one classified 5 of the 20 gold documents.",
            "other classified 20 of the 20 gold documents.",
            "Scores are over 5 of 20 gold documents; 15 are left out.",
        )
    assert select(GOLD, [first, second], "empty").gold is GOLD
    # A file that is scored with a run must cover the run's documents.
    assert select(GOLD, [first, system("p.json", range(4))]).gold.titles == GOLD.titles[:5]
    with pytest.raises(UserError, match=r"p\.json has predictions for 2 of the 5 gold documents"):
        select(GOLD, [first, system("p.json", [0, 1, 9, 10, 11, 12, 13, 14, 15])])


def test_empty_selection_is_rejected() -> None:
    elsewhere = System("run", Predictions.of([]), frozenset({"x"}))
    with pytest.raises(UserError, match="no gold document is left to score: run classified 0 of the 20 gold documents"):
        select(GOLD, [elsewhere])
    assert select(GOLD, [elsewhere], "empty").gold is GOLD
    empty = Gold.of([], RELATIONS)
    assert select(empty, [elsewhere]).gold is empty


def test_scores_of_a_selection_agree_with_its_documents_alone() -> None:
    """Predictions for documents that are left out do not count; those for unknown titles stay wrong."""
    documents = [Document(d.title, d.sentences, d.entities, (Label(0, 1, "P1", (0,)),)) for d in DOCUMENTS]
    one = system("one", [1, 2, 3], range(1, 5))
    found = [Prediction(f"d{n}", h, 1 - h, "P1", None, e) for n in range(20) for h, e in ((0, None), (1, (0, 7)))]
    found.append(Prediction("Nobody", 0, 1, "P1"))
    selection = select(Gold.of(documents, RELATIONS), [one, System("p", Predictions.of(found))])
    _, scores = scores_of(Triples.of(selection.gold, selection.predictions))
    left = [prediction for prediction in found if prediction.title in {"d1", "d2", "d3", "d4", "Nobody"}]
    assert scores == score(documents[1:5], left, RELATIONS)
    assert scores.problems["unknown_title"] == 1
    assert scores.evidence is not None
    assert scores.evidence.predicted == 8
