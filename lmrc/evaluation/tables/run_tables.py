"""Tables of runs side by side: scores with intervals, scores by kind of triple, errors by cause."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lmrc.evaluation.metrics.error_analysis import CAUSES, Analysis
from lmrc.evaluation.metrics.registry import METRICS, Metric
from lmrc.evaluation.metrics.scores import Scores
from lmrc.evaluation.paper_scores import ABSENT
from lmrc.evaluation.scored_run import ScoredRun
from lmrc.evaluation.tables.table import Table, two_digits

UPPER_BOUNDS: dict[str, Callable[[Analysis], float | None]] = {
    "as it is": lambda analysis: analysis.counts.f1,
    "if RCP proposed exactly the pairs with a relation": lambda analysis: analysis.perfect_rcp,
    "if RC named the gold relations of every proposed pair that has any": lambda analysis: analysis.perfect_rc,
    "if RC also answered None for the other pairs": lambda analysis: analysis.perfect_rc_with_none,
}


def summary_table(runs: Sequence[ScoredRun]) -> Table:
    """Return one row per metric and one column per run, with 95 % intervals."""
    rows = [("Data", *(run.data for run in runs))]
    for metric in METRICS:
        if not metric.in_summary:
            continue
        # F1 of RCP stands between the percentages and the counts.
        if metric.name == "predictions" and any(run.proposed is not None for run in runs):
            rows.append(("F1 of RCP", *(rcp_f1(run) for run in runs)))
        cells = [_with_interval(run.scores, metric) for run in runs]
        if any(cell != ABSENT for cell in cells):
            rows.append((metric.label, *cells))
    return Table(("", *(run.name for run in runs)), tuple(rows))


def rcp_f1(run: ScoredRun) -> str:
    return two_digits(None if run.proposed is None else run.proposed.f1)


def group_by_data(runs: Sequence[ScoredRun]) -> dict[str, list[ScoredRun]]:
    """Group the runs by their documents, in order. The runs of a group have the same gold triples."""
    groups: dict[str, list[ScoredRun]] = {}
    for run in runs:
        groups.setdefault(run.data, []).append(run)
    return groups


def run_labels(runs: Sequence[ScoredRun]) -> list[str]:
    """Return the names of the runs, with their data sets if these differ."""
    several = len(group_by_data(runs)) > 1
    return [f"{run.name} ({run.data})" if several else run.name for run in runs]


def split_table(runs: Sequence[ScoredRun]) -> Table:
    """Return F1 by kind of triple: one row per part, and per data set the gold triples and one column per run.

    Parts without a gold or predicted triple are omitted.
    """
    groups = group_by_data(runs)
    header = [""]
    for data, group in groups.items():
        header.append("Gold triples" if len(groups) == 1 else f"Gold triples of {data}")
        header += [f"F1 {run.name}" for run in group]
    rows: list[tuple[str, ...]] = []
    for index, split in enumerate(runs[0].scores.splits):
        rows.append((split.meaning,))
        for part in split.parts:
            if not any(c.gold or c.predicted for run in runs for c in [run.scores.splits[index].parts[part]]):
                continue
            cells: list[str] = []
            for group in groups.values():
                counts = [run.scores.splits[index].parts[part] for run in group]
                cells.append(f"{counts[0].gold:,}")
                cells += [two_digits(c.f1) if c.gold or c.predicted else ABSENT for c in counts]
            rows.append((part.replace("_", " "), *cells))
    return Table(tuple(header), tuple(rows))


def error_table(analysis: Analysis, heading: str = "Cause", only_present: bool = False) -> Table:
    """Return the missed and wrong triples of each cause, and F1 if only these errors were fixed."""
    return Table(
        (heading, "Missed", "Wrong", "F1 without it"),
        tuple(
            (CAUSES[error.cause], f"{error.missed:,}", f"{error.wrong:,}", two_digits(error.counts_if_fixed.f1))
            for error in analysis.errors
            if error.missed or error.wrong or not only_present
        ),
    )


def upper_bound_table(runs: Sequence[ScoredRun]) -> Table:
    """Return F1 of each run, and its upper bounds for a perfect RCP or RC."""
    return Table(
        ("F1", *run_labels(runs)),
        tuple((words, *(two_digits(f1(run.analysis)) for run in runs)) for words, f1 in UPPER_BOUNDS.items()),
    )


def _with_interval(scores: Scores, metric: Metric) -> str:
    """Return a metric with its interval, such as "57.45 [52.10, 61.98]"."""
    value = scores.metrics[metric.name]
    text = metric.format(value)
    interval = scores.intervals.get(metric.name)
    return text if value is None or interval is None else f"{text} [{interval.low:.2f}, {interval.high:.2f}]"
