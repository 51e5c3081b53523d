"""Figures as SVG text: the same input gives the same bytes, and lines take the colour of the text around them."""

from __future__ import annotations

import html
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lmrc.corpus.relations import RelationSet
from lmrc.errors import UserError
from lmrc.evaluation.metrics import Scores

Series = dict[int, float]
"""Values by optimizer step, steps ascending."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, which people with any colour vision tell apart; each line has its own dashes too, for print."""

DASHES = ("-", "--", "-.", ":", (0, (3, 1, 1, 1, 1, 1)), (0, (8, 3)))

INK = "#010203"
"""Drawn in this colour, replaced by `currentColor`: dark on a light page, light on a dark one."""

logger = logging.getLogger(__name__)


def read_curves(path: str | Path) -> dict[str, Series]:
    """The numbers of a `metrics.jsonl` by name, each by step.

    A run that resumed has logged some steps twice: the later line holds. A last line without its end is still being
    written and is left away.

    Raises:
        UserError: the file is missing or unreadable, or a line is not a JSON object with an integer "step".
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a metrics.jsonl: {error}") from error
    if lines.pop():
        logger.warning("%s: the last line is incomplete and left away", path)
    curves: dict[str, Series] = {}
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: line {number} is not JSON: {error}") from error
        if not isinstance(record, dict) or type(record.get("step")) is not int:
            raise UserError(f'{path}: line {number} is not an object with an integer "step"')
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                curves.setdefault(name, {})[record["step"]] = float(value)
    return {name: dict(sorted(series.items())) for name, series in curves.items()}


def learning_curves(
    runs: Sequence[tuple[str, Mapping[str, Series]]], metrics: Sequence[str] = ("loss", "dev_f1")
) -> str:
    """One panel a metric, one line a run. Metrics that no run has logged get no panel.

    Raises:
        UserError: no run has logged any of `metrics`.
    """
    shown = [metric for metric in metrics if any(curves.get(metric) for _, curves in runs)]
    if not shown:
        raise UserError(f"no learning curve to draw: none of the runs has logged {' or '.join(metrics)}")
    with _style():
        figure = Figure(figsize=(4.2 * len(shown), 3.2), layout="constrained")
        for panel, metric in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            for index, (name, curves) in enumerate(runs):
                series = curves.get(metric, {})
                # Few points, such as one evaluation an epoch, are seen only with markers.
                panel.plot(
                    list(series),
                    list(series.values()),
                    label=f" {name}" if name.startswith("_") else name,  # a leading underscore hides a label
                    color=COLOURS[index % len(COLOURS)],
                    linestyle=DASHES[index % len(DASHES)],
                    marker="o" if len(series) <= 20 else "",
                )
            panel.set_xlabel("optimizer step")
            panel.set_title(metric, loc="left")
            _bare(panel, grid="y")
        if len(runs) > 1:
            figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return _svg(figure, f"Learning curves: {', '.join(shown)} by optimizer step")


def relation_bars(scores: Scores, relations: RelationSet) -> str:
    """F1 of every relation with gold triples, the most frequent on top, with its number of gold triples.

    Raises:
        UserError: there is no gold triple.
    """
    present = [(id, counts) for id, counts in scores.per_relation.items() if counts.gold]
    if not present:
        raise UserError("no F1 per relation to draw: the gold documents have no triples")
    present.sort(key=lambda item: (-item[1].gold, relations.index(item[0])))
    with _style():
        figure = Figure(figsize=(7.2, 0.9 + 0.21 * len(present)), layout="constrained")
        axes = figure.subplots()
        places = range(len(present))
        bars = axes.barh(places, [counts.f1 for _, counts in present], height=0.7, color=COLOURS[0])
        axes.bar_label(bars, [f"{counts.f1:.1f}" for _, counts in present], padding=3, fontsize=8)
        axes.set_yticks(places, [f"{relations.name(id)} ({counts.gold:,})" for id, counts in present])
        axes.set_ylim(len(present) - 0.4, -0.6)
        axes.set_xlim(0, 108)
        axes.set_xticks(range(0, 101, 20))
        axes.set_xlabel("F1 in percent, by relation (gold triples)")
        axes.tick_params("y", length=0)
        _bare(axes, grid="x")
        return _svg(figure, "F1 by relation, the most frequent relation first")


@contextmanager
def _style() -> Iterator[None]:
    style: dict[str, Any] = {
        "svg.hashsalt": "lmrc",  # otherwise identifiers differ from run to run
        "svg.fonttype": "none",  # text stays text: searchable, small, in the reader's size
        "text.parse_math": False,  # a dollar in a name is a dollar
        "font.family": "sans-serif",
        "font.size": 9,
        "lines.markersize": 4,
        "legend.frameon": False,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    }
    # From matplotlib's defaults, whatever this machine's matplotlibrc says.
    with matplotlib.style.context(["default", style]):
        yield


def _bare(axes: Axes, grid: Literal["x", "y"]) -> None:
    """Only what is read: a faint grid across the values and no box."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=INK, alpha=0.15, linewidth=0.6)


def _svg(figure: Figure, description: str) -> str:
    """The figure as an `<svg>` element that can stand in a page, named for those who do not see it."""
    text = StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].rstrip() + "\n"
    # Names of groups repeat from figure to figure, which a page with several does not allow; nothing refers to them.
    svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)
    svg = svg.replace(INK, "currentColor")
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(description)}"', 1)
