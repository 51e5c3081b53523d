from __future__ import annotations

from collections.abc import Sequence

from lmrc.corpus.predictions import Prediction
from lmrc.evaluation.group import GroupScores, MemberScores, Reference
from lmrc.evaluation.metrics.scores import Scores, score
from lmrc.evaluation.tables.group_tables import (
    comparison_notes,
    comparison_table,
    format_group,
    group_notes,
    member_table,
    system_table,
)
from tests.evaluation.examples import RELATIONS, family

TRIPLES = [(0, 1, "P1"), (0, 1, "P2"), (1, 2, "P3")]


def scores_of(triples: Sequence[tuple[int, int, str]]) -> Scores:
    return score([family()], [Prediction("Family", *triple) for triple in triples], RELATIONS)


# F1 80 and 50, then 100.
ALL, TWO, ONE = scores_of(TRIPLES), scores_of(TRIPLES[:2]), scores_of(TRIPLES[:1])
MEMBERS = [
    MemberScores("a_seed1", "a", 1, {"rc.lora.r": "a"}, TWO),
    MemberScores("a_seed2", "a", 2, {"rc.lora.r": "a"}, ONE),
    MemberScores("b_seed1", "b", 1, {"rc.lora.r": "b"}, ALL),
]
GROUP = GroupScores(MEMBERS, {"b_seed2": "rc failed: out of memory"}, Reference("runs/other", [ONE]))


def test_mean_and_deviation_over_the_seeds_of_a_system() -> None:
    table = system_table(GROUP)
    assert table.header[:5] == ("", "Seeds", "P", "R", "F1")
    assert table.rows[0][:5] == ("a", "2", "100.00 ± 0.00", "50.00 ± 23.57", "65.00 ± 21.21")
    assert table.rows[1][:5] == ("b", "1", "100.00", "100.00", "100.00")
    assert [row[0] for row in member_table(GROUP).rows] == ["a_seed1", "a_seed2", "b_seed1"]


def test_differences_to_the_reference() -> None:
    rows = comparison_table(GROUP).rows
    assert [row[:4] for row in rows] == [
        ("a", "65.00", "50.00", "+15.00"),
        ("a_seed1", "80.00", "50.00", "+30.00"),
        ("a_seed2", "50.00", "50.00", "+0.00"),
        ("b_seed1", "100.00", "50.00", "+50.00"),
    ]
    # All samples of one document are that document.
    assert [row[-2:] for row in rows] == [("0.001", "yes")] * 2 + [("1.000", "no")] + [("0.001", "yes")]
    name, corrected = comparison_notes(GROUP)
    assert name.startswith("The reference is runs/other.") and "4 comparisons" in corrected


def test_the_reference_is_not_compared_with_itself() -> None:
    inside = GroupScores(MEMBERS, {}, Reference("a", [TWO, ONE], frozenset({"a_seed1", "a_seed2"})))
    assert [row[0] for row in comparison_table(inside).rows] == ["b_seed1"]
    assert comparison_table(inside).rows[0][2] == "65.00"
    assert comparison_notes(inside)[0].startswith("The reference is a, mean of 2 seeds.")
    assert len(comparison_notes(inside)) == 1


def test_text_names_members_without_scores() -> None:
    assert group_notes(GROUP)[0] == "b_seed2 has no scores: rc failed: out of memory."
    text = format_group(GROUP)
    assert "65.00 ± 21.21" in text and "b_seed2 has no scores" in text and "The reference is runs/other" in text
    alone = GroupScores(MEMBERS[2:], {})
    assert "Reference" not in format_group(alone) and "±" not in format_group(alone)
