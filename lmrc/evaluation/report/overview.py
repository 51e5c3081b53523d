"""The first screen of a report: main scores with intervals, the funnel of each run, and where its F1 is lost.

The bars are HTML whose lengths are percentages, so that they fit any width and follow the theme.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lmrc.evaluation.metrics.error_analysis import CAUSES
from lmrc.evaluation.metrics.registry import METRICS, percent
from lmrc.evaluation.report.page import TEMPLATES
from lmrc.evaluation.scored_run import ScoredRun
from lmrc.evaluation.tables.run_tables import run_labels

# The metrics of the overview, by their names in `METRICS`.
HEADLINE = ("f1", "precision", "recall", "ign_f1", "intra_f1", "inter_f1")

# With more runs, funnel and losses of each are folded.
MOST_OPEN = 2


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar from `start` to `end` with its interval, in percent of the whole width.

    Attributes:
        text: the value.
        note: words behind the value.
        interval: ends of a thin line over the bar; None for no line.
        inner: end of a part in a stronger color; None for no such part.
        kind: name of the style.
    """

    label: str
    text: str
    start: float
    end: float
    note: str = ""
    interval: tuple[float, float] | None = None
    inner: float | None = None
    kind: str = ""

    @property
    def style(self) -> str:
        """Return the lengths as CSS variables."""
        lengths = {"start": self.start, "end": self.end, "inner": self.inner}
        if self.interval is not None:
            lengths |= {"low": self.interval[0], "high": self.interval[1]}
        return ";".join(f"--{name}:{value:.2f}" for name, value in lengths.items() if value is not None)


def headline(runs: Sequence[ScoredRun]) -> list[tuple[str, list[Bar]]]:
    """Return the name of each main metric with one bar per run; metrics that no run has are omitted."""
    panels: list[tuple[str, list[Bar]]] = []
    labels = run_labels(runs)
    for metric in (next(metric for metric in METRICS if metric.name == name) for name in HEADLINE):
        bars = []
        for label, run in zip(labels, runs, strict=True):
            value = run.scores.metrics[metric.name]
            if value is not None:
                found = run.scores.intervals.get(metric.name)
                interval = None if found is None else (found.low, found.high)
                note = "" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"
                bars.append(Bar(label, metric.format(value), 0, value, note, interval))
        panels.append((metric.label, bars))
    pairs = [
        Bar(label, f"{run.proposed.f1:.2f}", 0, run.proposed.f1)
        for label, run in zip(labels, runs, strict=True)
        if run.proposed is not None
    ]
    panels.append(("F1 of RCP", pairs))
    return [(label, bars) for label, bars in panels if bars]


def funnel(run: ScoredRun) -> list[Bar]:
    """Return pairs of entities, proposed pairs, triples, correct triples and gold triples, on one scale.

    There are many more pairs than triples: a bar of kind "cut" is longer than the scale.
    """
    pairs = sum(len(document.entities) * (len(document.entities) - 1) for document in run.documents)
    counts, proposed = run.scores.all, run.proposed
    scale = max(counts.predicted, counts.gold, 0 if proposed is None else proposed.predicted, 1)

    def bar(label: str, count: int, note: str, inner: int | None = None, kind: str = "") -> Bar:
        cut = "cut" if count > scale else kind
        end = percent(min(count, scale), scale)
        return Bar(label, f"{count:,}", 0, end, note, None, None if inner is None else percent(inner, scale), cut)

    bars = [bar("Pairs of entities", pairs, "")]
    if proposed is not None:
        share, recall = percent(proposed.predicted, pairs), proposed.recall
        note = f"{share:.1f} % of the pairs, {recall:.1f} % of those with a relation"
        bars.append(bar("Proposed by RCP", proposed.predicted, note, proposed.correct))
    per_pair = (
        f"{counts.predicted / proposed.predicted:.2f} per proposed pair" if proposed and proposed.predicted else ""
    )
    bars.append(bar("Triples", counts.predicted, per_pair, counts.correct))
    note = f"{counts.precision:.1f} % of the triples, {counts.recall:.1f} % of the gold ones"
    bars.append(bar("Correct triples", counts.correct, note, counts.correct))
    bars.append(bar("Gold triples", counts.gold, "", None, "gold"))
    return bars


def losses(run: ScoredRun) -> list[Bar]:
    """Return what each cause takes from an F1 of 100, in the order of the pipeline, and F1 itself."""
    steps = [
        Bar(CAUSES[cause], f"-{before - after:.2f}", after, before, kind="lost")
        for cause, before, after in run.analysis.lost_by_cause
        if before != after
    ]
    f1 = run.scores.all.f1
    return [*steps, Bar("F1", f"{f1:.2f}", 0, f1)]


def overview_html(runs: Sequence[ScoredRun]) -> Iterator[str]:
    """Yield the HTML of the overview; nothing without runs."""
    if runs:
        yield TEMPLATES.get_template("overview.html").render(
            panels=headline(runs),
            several=len(runs) > 1,
            runs=[(run.name, funnel(run), losses(run) if run.scores.all.gold else []) for run in runs],
            unfolded=len(runs) <= MOST_OPEN,
        )
