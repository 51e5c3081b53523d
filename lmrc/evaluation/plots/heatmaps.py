"""Heat maps: F1 by relation and system (figure 2 of the paper), and confusion between relations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lmrc.common.errors import UserError
from lmrc.corpus.relations import RelationSet
from lmrc.evaluation.metrics.confusion import Confusion, most_confused
from lmrc.evaluation.paper_scores import ABSENT
from lmrc.evaluation.plots.style import COLORS, FOREGROUND, Plot, style
from lmrc.evaluation.tables.table import Table

# Number of relations with a row of their own in the confusion matrix.
MOST_CONFUSED = 12

# Color of the cells, and the opacity from which white text is easier to read on it than the text of the page.
SHADE, WHITE_TEXT = COLORS[0], 0.85


def relation_heatmap(table: Table) -> Plot:
    """Plot F1 by relation and system (figure 2): stronger is better, no color means that nothing was correct.

    Args:
        table: columns id and name, then one column of F1 per system. More than 30 rows are split into two panels.

    Raises:
        UserError: the table has no row.
    """
    if not table.rows:
        raise UserError("no F1 per relation to draw: no relation is gold or predicted")
    half = -(-len(table.rows) // 2) if len(table.rows) > 30 else len(table.rows)
    panels = [table.rows[:half], table.rows[half:]] if half < len(table.rows) else [table.rows]
    systems = table.header[2:]
    with style():
        width = (2.7 + 0.36 * len(systems)) * len(panels)
        figure = Figure(figsize=(width, 1.5 + 0.17 * half), layout="constrained")
        for axes, rows in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            values = np.array([[np.nan if cell == ABSENT else float(cell) for cell in row[2:]] for row in rows])
            _draw_cells(axes, values / 100, [[_rounded(value) for value in row] for row in values.tolist()], 7.5)
            axes.set_ylim(half, 0)  # the rows of both panels have the same height
            axes.set_yticks(
                np.arange(len(rows)) + 0.5, [f"{_shortened(row[1])} {row[0]}" for row in rows], fontsize=7.5
            )
            axes.set_xticks(
                np.arange(len(systems)) + 0.5, systems, rotation=60, ha="left", rotation_mode="anchor", fontsize=8
            )
    return Plot(figure, f"Heat map of F1 by relation of {', '.join(systems)}")


def confusion_heatmap(counts: Confusion, relations: RelationSet) -> Plot:
    """Plot gold relations (rows) against predicted ones (columns) of the same pair.

    The most confused relations have a row of their own; the others are merged. A cell shows its count, and its shade
    is its share of the row.

    Raises:
        UserError: nothing is gold or predicted.
    """
    shown = most_confused(counts, MOST_CONFUSED)
    if not shown:
        raise UserError("no confusion to draw: no relation is gold or predicted")
    size = len(shown)
    indices: dict[str | None, int] = {relation: index for index, relation in enumerate(shown)}
    indices[None] = size + 1

    matrix = np.zeros((size + 2, size + 2), dtype=int)
    for (expected, predicted), count in counts.items():
        matrix[indices.get(expected, size), indices.get(predicted, size)] += count
    names = [_shortened(relations.name(id)) if id in relations else id for id in shown]
    with style():
        figure = Figure(figsize=(2.6 + 0.42 * (size + 2), 2.0 + 0.3 * (size + 2)), layout="constrained")
        axes = figure.subplots()
        row_sums = np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        texts = [[f"{count:,}" if count else "" for count in row] for row in matrix.tolist()]
        _draw_cells(axes, matrix / row_sums, texts, 8)
        axes.set_ylim(size + 2, 0)
        axes.set_yticks(np.arange(size + 2) + 0.5, [*names, "other relations", "not gold"], fontsize=8.5)
        axes.set_xticks(
            np.arange(size + 2) + 0.5,
            [*names, "other relations", "not predicted"],
            rotation=60,
            ha="left",
            rotation_mode="anchor",
            fontsize=8.5,
        )
        axes.set_ylabel("gold")
        axes.set_xlabel("predicted")
        axes.xaxis.set_label_position("top")
    return Plot(figure, f"Confusion between the {size} most confused relations: gold against predicted")


def _draw_cells(axes: Axes, shares: NDArray[np.float64], texts: Sequence[Sequence[str]], fontsize: float) -> None:
    """Draw a grid of cells with shades `shares` [rows, columns] from 0 (transparent) to 1; NaN is not shaded.

    The shades are opacities of one color, which fit a light and a dark page.
    """
    shades = LinearSegmentedColormap.from_list("opacity", [(*to_rgb(SHADE), 0.0), (*to_rgb(SHADE), 1.0)])
    mesh = np.ma.masked_invalid(shares)
    grid = (*to_rgb(FOREGROUND), 0.2)
    axes.pcolormesh(mesh, cmap=shades, vmin=0.0, vmax=1.0, edgecolors=[grid], linewidth=0.3)
    for row, line in enumerate(texts):
        for column, text in enumerate(line):
            share = shares[row, column]
            color = "white" if share > WHITE_TEXT else FOREGROUND
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=fontsize, color=color)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)


def _rounded(value: float) -> str:
    return ABSENT if np.isnan(value) else f"{value:.0f}"


def _shortened(name: str) -> str:
    return name if len(name) <= 34 else f"{name[:33].rstrip()}…"
