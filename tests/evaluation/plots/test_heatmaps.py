from __future__ import annotations

import random
from collections import Counter

import pytest
from matplotlib.colors import to_hex

from lmrc.common.errors import UserError
from lmrc.corpus.predictions import Prediction
from lmrc.evaluation.metrics.confusion import confusion, most_confused
from lmrc.evaluation.plots.heatmaps import confusion_heatmap, relation_heatmap
from lmrc.evaluation.plots.style import FOREGROUND, Plot
from lmrc.evaluation.tables.paper_comparison import relations_table
from lmrc.evaluation.tables.table import Table
from tests.evaluation.examples import RELATIONS, document


def cells(plot: Plot, panel: int = 0) -> dict[tuple[int, int], tuple[str, str]]:
    """Return text and color of each cell by (row, column)."""
    axes = plot.figure.axes[panel]
    assert plot.svg  # plot computes the shades
    shades = [to_hex(shade, keep_alpha=True) for shade in axes.collections[0].get_facecolors()]  # type: ignore[attr-defined]
    texts = {(int(text.get_position()[1]), int(text.get_position()[0])): text.get_text() for text in axes.texts}
    columns = 1 + max(column for _, column in texts)
    return {cell: (text, shades[cell[0] * columns + cell[1]]) for cell, text in texts.items()}


def test_cell_shades_follow_f1() -> None:
    rows = (("P1", "a", "0.00", "20.00"), ("P2", "b", "60.00", "-"), ("P3", "c", "100.00", "0.01"))
    counts = cells(relation_heatmap(Table(("Relation", "Name", "x", "y"), rows, 2)))
    assert {cell: text for cell, (text, _) in counts.items()} == {
        (0, 0): "0", (0, 1): "20", (1, 0): "60", (1, 1): "-", (2, 0): "100", (2, 1): "0",
    }  # fmt: skip
    # The shade is an opacity, which fits a light and a dark page.
    assert {shade[:7] for cell, (_, shade) in counts.items() if cell != (1, 1)} == {"#0072b2"}
    opacities = [int(counts[cell][1][7:], 16) for cell in ((0, 0), (0, 1), (1, 0), (2, 0))]
    assert opacities == pytest.approx([0, 51, 153, 255], abs=1)
    assert counts[1, 1][1][-2:] == "00"  # unknown: transparent


def test_text_of_a_strong_cell_is_white() -> None:
    rows = tuple((f"P{f1}", "a", f"{f1}.00") for f1 in (0, 84, 86))
    plot = relation_heatmap(Table(("Relation", "Name", "x"), rows, 2))
    colors = {text.get_text(): text.get_color() for text in plot.figure.axes[0].texts}
    assert colors == {"0": FOREGROUND, "84": FOREGROUND, "86": "white"}
    assert plot.svg.count("currentColor") > 2 and "fill-opacity" in plot.svg


def test_relation_heatmap_has_two_panels_in_the_papers_order() -> None:
    plot = relation_heatmap(relations_table([]))
    first, second = ([label.get_text() for label in axes.get_yticklabels()] for axes in plot.figure.axes)
    assert (len(first), len(second)) == (48, 48)
    assert (first[0], second[0], second[-1]) == ("country P17", "screenwriter P58", "separated from P807")
    assert cells(plot, 0)[0, 3][0] == "70"
    with pytest.raises(UserError, match="no relation"):
        relation_heatmap(Table(("Relation", "Name", "x"), (), 2))


def test_confusion_counts_relations_of_the_same_pair() -> None:
    made = document("x", [[("a", 0)], [("b", 0)], [("c", 0)]], [(0, 1, "P1"), (0, 1, "P2"), (1, 2, "P3"), (2, 0, "P1")])
    predicted = [(0, 1, "P1"), (0, 1, "P3"), (1, 2, "P1"), (1, 2, "P2"), (0, 2, "P2"), (0, 2, "P2")]
    counts = confusion([made], [Prediction("x", *triple) for triple in predicted] + [Prediction("other", 0, 1, "P1")])
    assert counts == {
        ("P1", "P1"): 1,
        ("P2", "P3"): 1,  # 0-1: P2 missed, P3 wrong
        ("P3", "P1"): 1,  # 1-2
        ("P3", "P2"): 1,
        ("P1", None): 1,  # 2-0: nothing predicted
        (None, "P2"): 1,  # 0-2: nothing gold
    }
    assert most_confused(counts, 2) == ["P3", "P2"]


def test_confusion_agrees_with_counts_by_relation() -> None:
    rng = random.Random(5)
    triples = [(h, t, r) for h in range(4) for t in range(4) if h != t for r in RELATIONS.ids]
    for _ in range(30):
        gold, predicted = (rng.sample(triples, rng.randrange(20)) for _ in range(2))
        counts = confusion([document("x", [[(n, 0)] for n in "abcd"], gold)], [Prediction("x", *t) for t in predicted])
        right = Counter(r for _, _, r in set(gold) & set(predicted))
        assert {r: counts[r, r] for r in RELATIONS.ids} == {r: right[r] for r in RELATIONS.ids}
        for relation in RELATIONS.ids:
            missed = [(h, t) for h, t, r in set(gold) - set(predicted) if r == relation]
            wrong = [{r for h, t, r in set(predicted) - set(gold) if (h, t) == pair} for pair in missed]
            expected = Counter(r for some in wrong for r in some or {None})
            assert Counter({b: n for (a, b), n in counts.items() if a == relation != b}) == expected


def test_less_confused_relations_are_merged() -> None:
    counts = Counter({(f"Q{i}", f"Q{i + 1}"): 100 - i for i in range(30)})
    counts["P1", None] = 7
    counts[None, "P2"] = 9
    plot = confusion_heatmap(counts, RELATIONS)  # type: ignore[arg-type]
    rows = [label.get_text() for label in plot.figure.axes[0].get_yticklabels()]
    assert len(rows) == 14
    assert rows[:2] == ["Q1", "Q2"]  # Q1 is in 100 + 99 confusions
    assert rows[-2:] == ["other relations", "not gold"]
    texts = {cell: text for cell, (text, _) in cells(plot).items()}
    assert texts[0, 1] == "99"
    assert texts[12, 13] == "7"
    assert texts[13, 12] == "9"
    assert sum(int(text.replace(",", "")) for text in texts.values() if text) == sum(counts.values())
    with pytest.raises(UserError, match="no confusion"):
        confusion_heatmap(Counter(), RELATIONS)
