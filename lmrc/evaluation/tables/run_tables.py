"""Tables of our runs side by side: scores with intervals, scores by kind of triple, where F1 is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lmrc.evaluation.metrics.error_analysis import CAUSES, Analysis
from lmrc.evaluation.metrics.scores import Scores
from lmrc.evaluation.paper_scores import ABSENT
from lmrc.evaluation.scored_run import ScoredRun
from lmrc.evaluation.tables.table import Table, two_digits

METRICS: dict[str, tuple[str, Callable[[Scores], float | None]]] = {
    "precision": ("Precision", lambda scores: scores.all.precision),
    "recall": ("Recall", lambda scores: scores.all.recall),
    "f1": ("F1", lambda scores: scores.all.f1),
    "ign_f1": ("Ign F1", lambda scores: scores.ign_f1),
    "intra_f1": ("Intra F1", lambda scores: scores.intra.f1),
    "inter_f1": ("Inter F1", lambda scores: scores.inter.f1),
    "evidence_f1": ("Evidence F1", lambda scores: None if scores.evidence is None else scores.evidence.f1),
}
"""By the names of `Scores.as_json`."""

CEILINGS: dict[str, Callable[[Analysis], float | None]] = {
    "as it is": lambda analysis: analysis.counts.f1,
    "if RCP proposed the pairs with a relation and no others": lambda analysis: analysis.perfect_rcp,
    "if RC named the gold relations of every proposed pair that has any": lambda analysis: analysis.perfect_rc,
    "if it also answered None where there are none": lambda analysis: analysis.perfect_rc_with_none,
}


def summary_table(runs: Sequence[ScoredRun]) -> Table:
    """A row a figure, a column a run; scores with their 95 % intervals."""
    rows = [("Data", *(run.data for run in runs))]
    for name, (title, value) in METRICS.items():
        cells = [_with_interval(run.scores, name, value(run.scores)) for run in runs]
        if any(cell != ABSENT for cell in cells):
            rows.append((title, *cells))
    if any(run.proposed is not None for run in runs):
        rows.append(("F1 of RCP", *(two_digits(None if run.proposed is None else run.proposed.f1) for run in runs)))
    rows.append(("Predictions", *(f"{run.scores.all.predicted:,}" for run in runs)))
    rows.append(("Gold triples", *(f"{run.scores.all.gold:,}" for run in runs)))
    return Table(("", *(run.name for run in runs)), tuple(rows))


def by_data(runs: Sequence[ScoredRun]) -> dict[str, list[ScoredRun]]:
    """Group the runs by their documents, in order: only runs of one group have the same gold triples."""
    groups: dict[str, list[ScoredRun]] = {}
    for run in runs:
        groups.setdefault(run.data, []).append(run)
    return groups


def labels_of(runs: Sequence[ScoredRun]) -> list[str]:
    """Return the names of the runs, with their data sets if these differ."""
    several = len(by_data(runs)) > 1
    return [f"{run.name} ({run.data})" if several else run.name for run in runs]


def split_table(runs: Sequence[ScoredRun]) -> Table:
    """Return F1 by kind of triple: a group a split, a row a part. The runs on each data set follow its gold triples."""
    groups = by_data(runs)
    header = [""]
    for data, group in groups.items():
        header.append("Gold triples" if len(groups) == 1 else f"Gold triples of {data}")
        header += [f"F1 {run.name}" for run in group]
    rows: list[tuple[str, ...]] = []
    for place, split in enumerate(runs[0].scores.splits):
        rows.append((split.meaning,))
        for part in split.parts:
            cells: list[str] = []
            for group in groups.values():
                counts = [run.scores.splits[place].parts[part] for run in group]
                cells.append(f"{counts[0].gold:,}")
                cells += [two_digits(c.f1) if c.gold or c.predicted else ABSENT for c in counts]
            rows.append((part.replace("_", " "), *cells))
    return Table(tuple(header), tuple(rows))


def loss_table(run: ScoredRun) -> Table:
    """What each cause costs: triples missed, predictions wrong, and F1 if that cause alone were no more."""
    return Table(
        ("Cause", "Missed", "Wrong", "F1 without it"),
        tuple(
            (CAUSES[loss.cause], f"{loss.missed:,}", f"{loss.wrong:,}", two_digits(loss.counts_if_fixed.f1))
            for loss in run.analysis.losses
        ),
    )


def ceiling_table(runs: Sequence[ScoredRun]) -> Table:
    """F1 as it is, and if one of the stages were perfect."""
    return Table(
        ("F1", *labels_of(runs)),
        tuple((words, *(two_digits(f1(run.analysis)) for run in runs)) for words, f1 in CEILINGS.items()),
    )


def _with_interval(scores: Scores, name: str, value: float | None) -> str:
    """Such as "57.45 [52.10, 61.98]"."""
    interval = scores.intervals.get(name)
    if value is None or interval is None:
        return two_digits(value)
    return f"{value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
