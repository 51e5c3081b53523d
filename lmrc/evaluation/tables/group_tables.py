"""Tables of a group of runs: mean ± standard deviation over seeds, and differences to a reference."""

from __future__ import annotations

from lmrc.evaluation.group import GroupScores, SystemScores
from lmrc.evaluation.metrics.registry import COLUMN_METRICS, Metric
from lmrc.evaluation.tables.table import Table, score_table


def system_table(group: GroupScores) -> Table:
    """Return one row per system: the number of its seeds, and mean ± standard deviation of the main metrics."""
    return Table(
        ("", "Seeds", *(metric.column for metric in COLUMN_METRICS)),
        tuple(
            (system.name, str(len(system.members)), *(_mean(system, metric) for metric in COLUMN_METRICS))
            for system in group.systems
        ),
    )


def _mean(system: SystemScores, metric: Metric) -> str:
    text = metric.format(system.mean.get(metric.name))
    deviation = (system.standard_deviation or {}).get(metric.name)
    return text if deviation is None else f"{text} ± {deviation:.2f}"


def member_table(group: GroupScores) -> Table:
    """Return the main metrics, one row per member."""
    return score_table([(member.name, member.scores) for member in group.members])


def comparison_table(group: GroupScores) -> Table:
    """Return F1 of systems and members beside that of the reference, with the paired test of their difference."""
    rows = []
    for name, differences in group.comparisons.items():
        f1 = differences.get("f1")
        if f1 is not None:
            bounds = (f"{end:+.2f}" for end in f1.interval)
            verdict = "yes" if f1.significant else "no"
            rows.append(
                (name, f"{f1.second:.2f}", f"{f1.first:.2f}", f"{f1.value:+.2f}", *bounds, f"{f1.p:.3f}", verdict)
            )
    return Table(("", "F1", "Reference", "Difference", "95 % from", "95 % to", "p", "Significant"), tuple(rows))


def group_notes(group: GroupScores) -> tuple[str, ...]:
    """Return sentences about the members without scores, and about systems of a single seed."""
    notes = [f"{name} has no scores: {why}." for name, why in group.unfinished.items()]
    if any(system.standard_deviation is not None for system in group.systems):
        notes.append("± is the sample standard deviation over seeds.")
    return tuple(notes)


def comparison_notes(group: GroupScores) -> tuple[str, ...]:
    """Return the name of the reference and of the test."""
    if group.reference is None:
        return ()
    seeds = len(group.reference.scores)
    name = group.reference.name + (f", mean of {seeds} seeds" if seeds > 1 else "")
    notes = [f"The reference is {name}. p is that of a paired bootstrap over documents; significant: below 0.05."]
    if len(group.comparisons) > 1:
        notes.append(f"There are {len(group.comparisons)} comparisons, and p is not corrected for that.")
    return tuple(notes)


def format_group(group: GroupScores) -> str:
    """Return the scores of a group as text. The last line starts with F1 of the first system."""
    parts = [member_table(group).text(), "\n".join([system_table(group).text(), *group_notes(group)])]
    if group.comparisons:
        parts.append("\n".join([comparison_table(group).text(), *comparison_notes(group)]))
    return "\n\n".join(parts)
