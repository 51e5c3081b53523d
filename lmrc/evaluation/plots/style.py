"""Style, colors, and SVG and PNG export of all figures.

The same input gives the same bytes. Lines and text of an SVG have the color of the text around it.
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

# The color-blind safe palette of Okabe and Ito. Lines also differ in dashes and bars in hatches, for print.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":", (0, (3, 1, 1, 1, 1, 1)), (0, (8, 3)))
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "+++")

DOTS_PER_INCH = 200

# Inches per letter, line and mark of a legend.
LETTER, LINE, LEGEND_MARK = 0.065, 0.17, 0.55

# Replaced by `currentColor` in the SVG: dark on a light page, light on a dark one.
FOREGROUND = "#010203"


@dataclass(frozen=True)
class Plot:
    """A figure with a description for screen readers."""

    figure: Figure
    description: str

    def __post_init__(self) -> None:
        # The layout takes longer than drawing; do it once for SVG and PNG.
        with style():
            self.figure.draw_without_rendering()
            self.figure.set_layout_engine("none")

    @cached_property
    def svg(self) -> str:
        """Return an `<svg>` element for an HTML page."""
        text = StringIO()
        # Without a salt, ids differ from run to run; with the same salt, two figures of a page share ids.
        with style(**{"svg.hashsalt": self.description}):
            self.figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        svg = text.getvalue()
        svg = svg[svg.index("<svg") :].rstrip() + "\n"
        # The ids of groups repeat from figure to figure, which HTML forbids; nothing refers to them.
        svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)
        svg = svg.replace(FOREGROUND, "currentColor")
        return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(self.description)}"', 1)

    def png(self) -> bytes:
        """Return a PNG on a white background."""
        image = BytesIO()
        with style():
            self.figure.savefig(image, format="png", facecolor="white", metadata={"Software": None})
        return image.getvalue()


@contextmanager
def style(**more: str) -> Iterator[None]:
    """Set matplotlib's settings in a `with` block, ignoring the matplotlibrc of this machine."""
    settings: dict[str, Any] = {
        # The layout depends on the resolution, because letters are rounded to dots.
        "figure.dpi": DOTS_PER_INCH,
        "svg.fonttype": "none",  # keep text as text: searchable and small
        "text.parse_math": False,  # a dollar sign in a name is no formula
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
    """Remove the box and draw a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=FOREGROUND, alpha=0.15, linewidth=0.6)


def add_legend(axes: Axes, max_columns: int = 3) -> None:
    """Add a legend below the figure, in as many columns as fit, and enlarge the figure by its height."""
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    handles, labels = axes.get_legend_handles_labels()
    width, height = figure.get_size_inches()
    column_width = LEGEND_MARK + LETTER * max(map(len, labels), default=0)
    columns = max(1, min(max_columns, int(width / column_width)))
    figure.set_size_inches(width, height + LINE * -(-len(labels) // columns))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8)


def legend_label(name: str) -> str:
    """Return a name for a legend; matplotlib hides names that start with an underscore."""
    return f" {name}" if name.startswith("_") else name
