"""Our runs beside the printed scores of the paper: tables 1 to 5 and 8 to 10."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lmrc.evaluation.paper_scores import ABSENT, PaperTable, printed
from lmrc.evaluation.scored_run import ScoredRun
from lmrc.evaluation.tables.table import Table, two_digits

OURS = "Our runs"
OTHER = "other data"

FIGURES: dict[str, Callable[[ScoredRun], str]] = {
    "Precision": lambda run: two_digits(run.scores.all.precision),
    "Recall": lambda run: two_digits(run.scores.all.recall),
    "F1": lambda run: two_digits(run.scores.all.f1),
    "Ign F1": lambda run: two_digits(run.scores.ign_f1),
    "# Extracted Triples": lambda run: f"{run.scores.all.predicted:,}",
    "Intra F1": lambda run: two_digits(run.scores.intra.f1),
    "Inter F1": lambda run: two_digits(run.scores.inter.f1),
    "F1 of RCP": lambda run: two_digits(None if run.proposed is None else run.proposed.f1),
}
"""The figures of a run in the tables, by their printed names."""


def statistics_table() -> Table:
    """Return table 1: the data sets of the paper, which are those of our runs."""
    return _by_figure(printed()["1"], [])


def figures_table(number: str, runs: Sequence[ScoredRun]) -> Table:
    """Tables 2 and 8: a column a system, a row a figure."""
    return _by_figure(printed()[number], [(_named(run), run) for run in runs])


def _by_figure(table: PaperTable, ours: Sequence[tuple[str, ScoredRun]]) -> Table:
    return Table(
        ("", *table.columns, *(name for name, _ in ours)),
        tuple((row["name"], *row["values"], *(FIGURES[row["name"]](run) for _, run in ours)) for row in table.rows),
    )


def systems_table(number: str, runs: Sequence[ScoredRun]) -> Table:
    """Tables 3a, 3b, 4 and 5: a row a system, a column a figure of a data set.

    A run on a data set that the table does not have gets columns of its own: no number stands under a name that is
    not its own.
    """
    table = printed()[number]
    names = dict.fromkeys(data for data, _ in table.columns)
    others = dict.fromkeys(figure for _, figure in table.columns) if any(run.data not in names for run in runs) else {}
    columns = [*table.columns, *((OTHER, figure) for figure in others)]
    rows: list[tuple[str, ...]] = []
    group = None
    for row in table.rows:
        if row.get("group") != group:
            group = row["group"]
            rows.append((group,))
        rows.append((row["name"], row["source"], *row["values"], *[ABSENT] * len(others)))
    if runs:
        rows.append((OURS,))
    for run in runs:
        home = run.data if run.data in names else OTHER
        cells = (FIGURES[figure](run) if data == home else ABSENT for data, figure in columns)
        rows.append((run.name, run.data, *cells))
    heads = columns if len({data for data, _ in columns}) > 1 else [("", figure) for _, figure in columns]
    return Table(("System", "Source or data", *(f"{data} {figure}".strip() for data, figure in heads)), tuple(rows), 2)


def relations_table(runs: Sequence[ScoredRun]) -> Table:
    """Return tables 9 and 10, F1 by relation. Relations that the paper does not have come last."""
    table = printed()["9/10"]
    names = {row["id"]: row["name"] for row in table.rows}
    values = {row["id"]: tuple(row["values"]) for row in table.rows}
    for run in runs:
        for id, name in zip(run.relations.ids, run.relations.names, strict=True):
            names.setdefault(id, name)
    missing = (ABSENT,) * len(table.columns)
    return Table(
        ("Relation", "Name", *(f"{column} (paper)" for column in table.columns), *map(_named, runs)),
        tuple(
            (id, name, *values.get(id, missing), *(_relation_f1(run, id) for run in runs)) for id, name in names.items()
        ),
        labels=2,
    )


def runs_by_relation(runs: Sequence[ScoredRun]) -> Table:
    """Return F1 by relation of our runs alone. An id that two relation sets give different names has two rows."""
    named = [dict(zip(run.relations.ids, run.relations.names, strict=True)) for run in runs]
    relations = dict.fromkeys(pair for names in named for pair in names.items())
    return Table(
        ("Relation", "Name", *map(_named, runs)),
        tuple(
            (
                *(id, name),
                *(
                    _relation_f1(run, id) if names.get(id) == name else ABSENT
                    for run, names in zip(runs, named, strict=True)
                ),
            )
            for id, name in relations
        ),
        labels=2,
    )


def _relation_f1(run: ScoredRun, id: str) -> str:
    """F1 of a relation; absent if nothing of it is gold or predicted, which is no score of 0."""
    counts = run.scores.per_relation.get(id)
    return ABSENT if counts is None or not (counts.gold or counts.predicted) else two_digits(counts.f1)


def _named(run: ScoredRun) -> str:
    return f"{run.name} ({run.data})"


def paper_tables(runs: Sequence[ScoredRun]) -> list[tuple[PaperTable, Table]]:
    """Return every table of the paper that has scores, in the paper's order, with our runs on its data sets."""
    made = {
        "1": statistics_table(),
        "2": figures_table("2", runs),
        **{number: systems_table(number, runs) for number in ("3a", "3b", "4", "5")},
        "8": figures_table("8", runs),
        "9/10": relations_table(runs),
    }
    return [(printed()[number], table) for number, table in made.items()]
