"""Figures of matrices: F1 by relation and system (figure 2 of the paper), confusion between relations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lmrc.common.errors import UserError
from lmrc.corpus.relations import RelationSet
from lmrc.evaluation.metrics.confusion import Confusion, most_confused
from lmrc.evaluation.paper_scores import ABSENT
from lmrc.evaluation.plots.style import FOREGROUND, Plot, style
from lmrc.evaluation.tables.table import Table

MOST_CONFUSED = 12


def relation_heatmap(table: Table) -> Plot:
    """Figure 2: F1 by relation and system, darker is better, white where nothing was correct.

    `table` has two columns of words, id and name, and one a system; its rows stand in two panels, in its order.

    Raises:
        UserError: the table has no row.
    """
    if not table.rows:
        raise UserError("no F1 per relation to draw: no relation is gold or predicted")
    half = -(-len(table.rows) // 2) if len(table.rows) > 30 else len(table.rows)
    panels = [table.rows[:half], table.rows[half:]] if half < len(table.rows) else [table.rows]
    systems = table.header[2:]
    with style():
        width = (2.4 + 0.36 * len(systems)) * len(panels)
        figure = Figure(figsize=(width, 1.5 + 0.16 * half), layout="constrained")
        for axes, rows in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            values = np.array([[np.nan if cell == ABSENT else float(cell) for cell in row[2:]] for row in rows])
            _cells(axes, values / 100, [[_whole(value) for value in row] for row in values.tolist()], 6)
            axes.set_ylim(half, 0)  # rows of both panels are of one height
            axes.set_yticks(np.arange(len(rows)) + 0.5, [f"{_short(row[1])} {row[0]}" for row in rows], fontsize=6.5)
            axes.set_xticks(
                np.arange(len(systems)) + 0.5, systems, rotation=60, ha="left", rotation_mode="anchor", fontsize=7
            )
    return Plot(figure, f"Heat map of F1 by relation of {', '.join(systems)}")


def confusion_heatmap(counts: Confusion, relations: RelationSet) -> Plot:
    """Gold relations (rows) against predicted ones on the same pair (columns): the most confused, and the rest as one.

    A cell has its count and the shade of its share of the row.

    Raises:
        UserError: nothing is gold and nothing predicted.
    """
    shown = most_confused(counts, MOST_CONFUSED)
    if not shown:
        raise UserError("no confusion to draw: no relation is gold or predicted")
    size = len(shown)
    place = {relation: index for index, relation in enumerate(shown)}

    def at(relation: str | None) -> int:
        return size + 1 if relation is None else place.get(relation, size)

    matrix = np.zeros((size + 2, size + 2), dtype=int)
    for (wanted, told), number in counts.items():
        matrix[at(wanted), at(told)] += number
    names = [_short(relations.name(id)) if id in relations else id for id in shown]
    with style():
        figure = Figure(figsize=(2.6 + 0.42 * (size + 2), 2.0 + 0.3 * (size + 2)), layout="constrained")
        axes = figure.subplots()
        whole = np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        _cells(axes, matrix / whole, [[f"{n:,}" if n else "" for n in row] for row in matrix.tolist()], 6.5)
        axes.set_ylim(size + 2, 0)
        axes.set_yticks(np.arange(size + 2) + 0.5, [*names, "other relations", "not gold"], fontsize=7.5)
        axes.set_xticks(
            np.arange(size + 2) + 0.5,
            [*names, "other relations", "not predicted"],
            rotation=60,
            ha="left",
            rotation_mode="anchor",
            fontsize=7.5,
        )
        axes.set_ylabel("gold")
        axes.set_xlabel("predicted")
        axes.xaxis.set_label_position("top")
    return Plot(figure, f"Confusion between the {size} most confused relations: gold against predicted")


def _cells(axes: Axes, shares: NDArray[np.float64], texts: Sequence[Sequence[str]], size: float) -> None:
    """A grid of cells, each shaded by a share of 0 (white) to 1, with its text; those of no number are left empty."""
    shades = colormaps["Blues"].with_extremes(bad="none", under="white")
    mesh = np.ma.masked_invalid(np.where(shares == 0, -1, shares))
    axes.pcolormesh(mesh, cmap=shades, vmin=0.0, vmax=1.0, edgecolors="#c8c8c8", linewidth=0.3)
    for row, line in enumerate(texts):
        for column, text in enumerate(line):
            share = shares[row, column]
            ink = FOREGROUND if np.isnan(share) else "white" if share > 0.7 else "black"
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=size, color=ink)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)


def _whole(value: float) -> str:
    return ABSENT if np.isnan(value) else f"{value:.0f}"


def _short(name: str) -> str:
    return name if len(name) <= 34 else f"{name[:33].rstrip()}…"
