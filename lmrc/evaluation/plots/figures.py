"""Line and bar plots. Heat maps are in `lmrc.evaluation.plots.heatmaps`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lmrc.common.errors import UserError
from lmrc.corpus.relations import RelationSet
from lmrc.evaluation.metrics.scores import Counts, Scores
from lmrc.evaluation.plots.read_curves import Aligned, Calibration, FusionCurve, Reliability, Series
from lmrc.evaluation.plots.style import (
    COLORS,
    DASHES,
    FOREGROUND,
    HATCHES,
    Plot,
    add_legend,
    legend_label,
    minimal_axes,
    style,
)

# Best theta of the LM without RCP in figure 3 of the paper, by its text; the points are not printed.
PAPER_PEAK = 0.55

PAPER_THRESHOLD = 0.5

# Titles of learning curves by metric; other metrics are titled by their name.
PANELS = {"loss": "loss", "dev_f1": "F1 on dev in percent", "dev_loss": "loss on dev"}

# Inches; a wider figure does not fit on a page.
WIDEST = 10.0

# Lowest and highest probability that the reliability figure shows.
_EDGE = 5e-4

# A curve with more steps than MANY_STEPS is drawn faint, with a running mean over 1 / WINDOWS of them.
MANY_STEPS, WINDOWS = 100, 50


def learning_curves(
    runs: Sequence[tuple[str, Mapping[str, Series]]], metrics: Sequence[str] = ("loss", "dev_f1")
) -> Plot:
    """Plot one panel per metric that a run has logged, with one line per run.

    Raises:
        UserError: no run has logged any of `metrics`.
    """
    shown = [metric for metric in metrics if any(curves.get(metric) for _, curves in runs)]
    if not shown:
        raise UserError(f"no learning curve to draw: none of the runs has logged {' or '.join(metrics)}")
    with style():
        figure = Figure(figsize=(4.2 * len(shown), 3.2), layout="constrained")
        for panel, metric in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
            for index, (name, curves) in enumerate(runs):
                series = curves.get(metric, {})
                steps, values = list(series), np.array(list(series.values()))
                color = COLORS[index % len(COLORS)]
                if len(series) > MANY_STEPS:
                    panel.plot(steps, values, color=color, linewidth=0.6, alpha=0.35)
                    values = running_mean(values, len(series) // WINDOWS)
                # A few points, such as one evaluation per epoch, are visible only with markers.
                marker = "o" if len(series) <= 20 else ""
                dashes = DASHES[index % len(DASHES)]
                panel.plot(steps, values, label=legend_label(name), color=color, linestyle=dashes, marker=marker)
            panel.set_xlim(left=0)
            panel.set_xlabel("optimizer step")
            panel.set_title(PANELS.get(metric, metric), loc="left")
            minimal_axes(panel, grid="y")
        if len(runs) > 1:
            add_legend(panel)
    names = ", ".join(name for name, _ in runs)
    return Plot(figure, f"Learning curves of {names}: {', '.join(shown)} by optimizer step")


def running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return the mean of the last `window` values at each position, `[values]`; of fewer at the beginning."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))


def relation_bars(scores: Scores, relations: RelationSet) -> Plot:
    """Plot F1 of each relation with gold triples, the most frequent one on top.

    Raises:
        UserError: there is no gold triple.
    """
    present = [(id, counts) for id, counts in scores.per_relation.items() if counts.gold]
    if not present:
        raise UserError("no F1 per relation to draw: the gold documents have no triples")
    present.sort(key=lambda item: -item[1].gold)
    with style():
        figure = Figure(figsize=(7.2, 0.9 + 0.21 * len(present)), layout="constrained")
        axes = figure.subplots()
        positions = range(len(present))
        bars = axes.barh(positions, [counts.f1 for _, counts in present], height=0.7, color=COLORS[0])
        axes.bar_label(bars, [f"{counts.f1:.1f}" for _, counts in present], padding=3, fontsize=8)
        axes.set_yticks(positions, [f"{relations.name(id)} ({counts.gold:,})" for id, counts in present])
        axes.set_ylim(len(present) - 0.4, -0.6)
        axes.set_xlim(0, 108)
        axes.set_xticks(range(0, 101, 20))
        axes.set_xlabel("F1 in percent, by relation (gold triples)")
        axes.tick_params("y", length=0)
        minimal_axes(axes, grid="x")
    return Plot(figure, "F1 by relation, the most frequent relation first")


def split_bars(kind: str, runs: Sequence[tuple[str, Mapping[str, Counts]]]) -> Plot:
    """Plot F1 of each part of a split, as a group of bars with one bar per run. Empty parts are omitted.

    The runs must be on the same documents.

    Raises:
        UserError: all parts are empty.
    """
    parts = list(dict.fromkeys(part for _, counts in runs for part, c in counts.items() if c.gold or c.predicted))
    if not parts:
        raise UserError(f"no F1 by {kind} to draw: nothing is gold or predicted")
    width = 0.8 / len(runs)
    inches = min(WIDEST, max(4.2, 0.6 + 0.75 * len(parts) * max(1.0, 0.55 * len(runs))))
    # Rotate the numbers if they would touch.
    rotated = inches * width / len(parts) < 0.3
    with style():
        figure = Figure(figsize=(inches, 3.2), layout="constrained")
        axes = figure.subplots()
        for index, (name, counts) in enumerate(runs):
            positions = [part + (index - (len(runs) - 1) / 2) * width for part in range(len(parts))]
            heights = [counts.get(part, Counts()).f1 for part in parts]
            bars = axes.bar(
                positions,
                heights,
                width * 0.94,
                label=legend_label(name),
                color=COLORS[index % len(COLORS)],
                hatch=HATCHES[index % len(HATCHES)],
                edgecolor="white",
                linewidth=0.0,
            )
            axes.bar_label(
                bars,
                [f"{height:.1f}" for height in heights],
                padding=2,
                fontsize=8 if len(runs) < 3 else 6.5,
                rotation=90 if rotated else 0,
            )
        first = runs[0][1]
        axes.set_xticks(
            range(len(parts)),
            [f"{part.replace('_', ' ')}\n({first.get(part, Counts()).gold:,})" for part in parts],
        )
        axes.set_ylim(0, 118 if rotated else 108)
        axes.set_yticks(range(0, 101, 20))
        axes.set_ylabel("F1 in percent")
        axes.set_xlabel(f"{kind} (gold triples)")
        axes.tick_params("x", length=0)
        minimal_axes(axes, grid="y")
        if len(runs) > 1:
            add_legend(axes)
    return Plot(figure, f"F1 by {kind}")


def precision_recall(models: Sequence[tuple[str, Calibration, Sequence[float]]]) -> Plot:
    """Plot precision over recall of RCP on dev, one line per model, with marks for some thresholds.

    A model is its name, calibration and used thresholds. The marks are the thresholds of the best F1, of the paper, and
    those used. Faint lines have equal F1.
    """
    with style():
        figure = Figure(figsize=(5.4, 3.8), layout="constrained")
        axes = figure.subplots()
        for level in (20, 40, 60, 80, 90):
            recall = np.linspace(level / 2 + 0.3, 100, 200)
            precision = level * recall / (2 * recall - level)
            inside = precision <= 100
            axes.plot(recall[inside], precision[inside], color=FOREGROUND, alpha=0.25, linewidth=0.6, zorder=1)
            axes.annotate(
                f"F1 {level}",
                (100, level * 100 / (200 - level)),
                (3, 0),
                textcoords="offset points",
                fontsize=7,
                va="center",
            )
        for index, (name, calibration, used) in enumerate(models):
            color = COLORS[index % len(COLORS)]
            recalls, _, precisions = zip(*calibration.curve, strict=True)
            axes.plot(recalls, precisions, color=color, linestyle=DASHES[index % len(DASHES)], label=legend_label(name))
            best, f1 = calibration.best
            marks = [("o", best, f"best F1 {f1:.1f}: threshold {best:.3f}")]
            marks.append(("s", PAPER_THRESHOLD, f"the paper's threshold {PAPER_THRESHOLD}"))
            marks += [("X", threshold, f"used: threshold {threshold:.3f}") for threshold in used]
            for marker, threshold, mark_label in marks:
                axes.plot(
                    *calibration.at(threshold),
                    marker=marker,
                    markersize=8 if marker == "X" else 7,
                    linestyle="",
                    color=color,
                    markerfacecolor="none" if marker == "s" else color,
                    label=mark_label,
                )
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 102)
        axes.set_xlabel("recall in percent")
        axes.set_ylabel("precision in percent")
        minimal_axes(axes, grid="both")
        add_legend(axes, max_columns=2)
    return Plot(figure, "Precision over recall of the candidate classifier on dev, with the chosen threshold")


def alignment(runs: Sequence[tuple[str, Sequence[Aligned]]]) -> Plot:
    """Plot F1 over theta, with a mark at the best theta of each run (figure 3).

    Theta is the least similarity at which a relation outside the set is aligned to it. The F1 axis shows only the range
    of the curves, because the differences are small.
    """
    with style():
        figure = Figure(figsize=(5.4, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.axvline(PAPER_PEAK, color=FOREGROUND, alpha=0.5, linewidth=0.8, linestyle=":")
        for index, (name, points) in enumerate(runs):
            best = max(points, key=lambda point: point.f1)
            axes.plot(
                [point.theta for point in points],
                [point.f1 for point in points],
                color=COLORS[index % len(COLORS)],
                linestyle=DASHES[index % len(DASHES)],
                marker="o",
                markevery=[list(points).index(best)],
                label=legend_label(f"{name}: {best.f1:.2f} at θ = {best.theta:g}"),
            )
        axes.annotate(
            f"paper, LM alone: ≈ {PAPER_PEAK}",
            (PAPER_PEAK, 1.0),
            (3, -2),
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
            fontsize=7,
            va="top",
        )
        axes.margins(y=0.2)
        axes.set_xlabel("θ: least cosine similarity for an alignment")
        axes.set_ylabel("F1 in percent")
        minimal_axes(axes, grid="y")
        add_legend(axes, max_columns=1)
    return Plot(figure, "F1 over the least similarity at which relations outside the set are aligned to it")


def reliability(runs: Sequence[tuple[str, Reliability]]) -> Plot:
    """Plot the share of correct questions over their probability, one line per run; the diagonal is calibrated.

    Both axes are log-odds, because most questions have a low probability. Bins without any correct or any wrong
    question are drawn at the edge.
    """
    ticks = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
    with style():
        figure = Figure(figsize=(4.6, 4.2), layout="constrained")
        axes = figure.subplots()
        axes.plot((_EDGE, 1 - _EDGE), (_EDGE, 1 - _EDGE), color=FOREGROUND, alpha=0.5, linewidth=0.8, linestyle=":")
        for index, (name, found) in enumerate(runs):
            points = np.clip([row[:2] for row in found.bins], _EDGE, 1 - _EDGE)
            axes.plot(
                points[:, 0],
                points[:, 1],
                color=COLORS[index % len(COLORS)],
                linestyle=DASHES[index % len(DASHES)],
                marker="o",
                label=legend_label(f"{name}: ECE {found.ece:.4f}"),
            )
        for axis in ("x", "y"):
            axes.set(**{f"{axis}scale": "logit", f"{axis}lim": (_EDGE, 1 - _EDGE)})
            labels = [f"{tick:g}" for tick in ticks]
            axes.set(**{f"{axis}ticks": ticks, f"{axis}ticklabels": labels})
        axes.minorticks_off()
        axes.set_xlabel("mean probability of the questions of a bin")
        axes.set_ylabel("share of them that is correct")
        minimal_axes(axes, grid="both")
        add_legend(axes, max_columns=1)
    return Plot(figure, "Share of correct questions over their probability")


def fusion_curves(runs: Sequence[tuple[str, FusionCurve]]) -> Plot:
    """Plot F1 over LM tokens, or over the share of pairs that the LM is asked about if a run does not know its tokens.

    The mark is the run itself; the points before it are narrower bands.
    """
    has_tokens = all(found.tokens_per_question is not None for _, found in runs)
    with style():
        figure = Figure(figsize=(5.4, 3.2), layout="constrained")
        axes = figure.subplots()
        for index, (name, found) in enumerate(runs):
            tokens = found.tokens_per_question
            share, _, f1 = found.points[-1]
            axes.plot(
                [
                    questions * tokens if has_tokens and tokens is not None else 100 * asked
                    for asked, questions, _ in found.points
                ],
                [value for *_, value in found.points],
                color=COLORS[index % len(COLORS)],
                linestyle=DASHES[index % len(DASHES)],
                marker="o",
                markevery=[len(found.points) - 1],
                label=legend_label(f"{name}: {f1:.2f} with {100 * share:.1f} % of the pairs"),
            )
        axes.margins(y=0.2)
        axes.set_xlim(left=0)
        axes.set_xlabel("LM tokens" if has_tokens else "proposed pairs that the LM is asked about, in percent")
        axes.set_ylabel("F1 in percent")
        minimal_axes(axes, grid="y")
        add_legend(axes, max_columns=1)
    return Plot(figure, "F1 over the cost of the LM, for narrower and wider bands of probability")
