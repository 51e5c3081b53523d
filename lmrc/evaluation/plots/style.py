"""What every figure shares: style, colours, and its two forms, SVG for the page and PNG for elsewhere.

The same input gives the same bytes. In SVG, lines and text take the colour of the text around them.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO, StringIO
from typing import Any, Literal

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, which people with any colour vision tell apart; each line has its own dashes too, for print."""

DASHES = ("-", "--", "-.", ":", (0, (3, 1, 1, 1, 1, 1)), (0, (8, 3)))

HATCHES = ("", "///", "...", "xxx", "\\\\\\", "+++")
"""Of bars, for print."""

DOTS_PER_INCH = 200

LETTER, LINE, LEGEND_MARK = 0.065, 0.17, 0.55
"""Inches that a letter, a line and a mark of a legend take."""

FOREGROUND = "#010203"
"""Drawn in this colour, replaced by `currentColor`: dark on a light page, light on a dark one."""


@dataclass(frozen=True)
class Plot:
    """A figure with a sentence for those who do not see it."""

    figure: Figure
    description: str

    def __post_init__(self) -> None:
        # Laid out once for both forms: that takes longer than to draw.
        with style():
            self.figure.draw_without_rendering()
            self.figure.set_layout_engine("none")

    @cached_property
    def svg(self) -> str:
        """An `<svg>` element that can stand in a page."""
        text = StringIO()
        # Otherwise identifiers differ from run to run, or are the same in two figures of a page.
        with style(**{"svg.hashsalt": self.description}):
            self.figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        svg = text.getvalue()
        svg = svg[svg.index("<svg") :].rstrip() + "\n"
        # Names of groups repeat from figure to figure, which a page does not allow; nothing refers to them.
        svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)
        svg = svg.replace(FOREGROUND, "currentColor")
        return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(self.description)}"', 1)

    def png(self) -> bytes:
        """On white."""
        image = BytesIO()
        with style():
            self.figure.savefig(image, format="png", facecolor="white", metadata={"Software": None})
        return image.getvalue()


@contextmanager
def style(**more: str) -> Iterator[None]:
    """matplotlib's settings while a figure is made, whatever this machine's matplotlibrc says."""
    settings: dict[str, Any] = {
        # Letters are rounded to dots: laid out with fewer of them, text is wider or narrower than it is drawn.
        "figure.dpi": DOTS_PER_INCH,
        "svg.fonttype": "none",  # text stays text: searchable, small, in the reader's size
        "text.parse_math": False,  # a dollar in a name is a dollar
        "font.family": "sans-serif",
        "font.size": 9,
        "lines.markersize": 4,
        "legend.frameon": False,
        "hatch.linewidth": 0.6,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), FOREGROUND),
        **more,
    }
    with matplotlib.style.context(["default", settings]):
        yield


def minimal_axes(axes: Axes, grid: Literal["x", "y", "both"]) -> None:
    """Only what is read: a faint grid across the values and no box."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=FOREGROUND, alpha=0.15, linewidth=0.6)


def legend(axes: Axes, most_columns: int = 3) -> None:
    """Below the figure, in as many columns as fit beside each other; the figure grows by what it needs."""
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    handles, labels = axes.get_legend_handles_labels()
    inches, height = figure.get_size_inches()
    wide = LEGEND_MARK + LETTER * max(map(len, labels), default=0)
    columns = max(1, min(most_columns, int(inches / wide)))
    figure.set_size_inches(inches, height + LINE * -(-len(labels) // columns))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8)


def label(name: str) -> str:
    """A name in a legend: matplotlib hides those that begin with an underscore."""
    return f" {name}" if name.startswith("_") else name
