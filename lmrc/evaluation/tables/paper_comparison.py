"""Tables 1 to 5 and 8 to 10 of the paper, with our runs beside the printed scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lmrc.evaluation.metrics.registry import METRICS
from lmrc.evaluation.paper_scores import ABSENT, PaperTable, load_paper_tables
from lmrc.evaluation.scored_run import ScoredRun
from lmrc.evaluation.tables.run_tables import rcp_f1
from lmrc.evaluation.tables.table import Table, two_digits

OUR_RUNS = "Our runs"
OTHER_DATA = "other data"


def _metric_cell(label: str) -> Callable[[ScoredRun], str]:
    metric = next(metric for metric in METRICS if metric.label == label)
    return lambda run: metric.format(run.scores.metrics[metric.name])


# Cells of our runs by the name that the paper prints.
CELLS: dict[str, Callable[[ScoredRun], str]] = {
    **{label: _metric_cell(label) for label in ("Precision", "Recall", "F1", "Ign F1", "Intra F1", "Inter F1")},
    "# Extracted Triples": _metric_cell("Predictions"),
    "F1 of RCP": rcp_f1,
}


def paper_tables(runs: Sequence[ScoredRun]) -> list[tuple[PaperTable, Table]]:
    """Return the tables of the paper that have scores, in its order, with our runs on its data sets."""
    tables = {
        # Table 1 describes the data sets of the paper, which our runs share.
        "1": metrics_table("1", []),
        "2": metrics_table("2", runs),
        **{number: systems_table(number, runs) for number in ("3a", "3b", "4", "5")},
        "8": metrics_table("8", runs),
        "9/10": relations_table(runs),
    }
    return [(load_paper_tables()[number], table) for number, table in tables.items()]


def metrics_table(number: str, runs: Sequence[ScoredRun]) -> Table:
    """Return table 1, 2 or 8: one row per metric and one column per system."""
    table = load_paper_tables()[number]
    return Table(
        ("", *table.columns, *map(_name_with_data, runs)),
        tuple((row["name"], *row["values"], *(CELLS[row["name"]](run) for run in runs)) for row in table.rows),
    )


def systems_table(number: str, runs: Sequence[ScoredRun]) -> Table:
    """Return table 3a, 3b, 4 or 5: one row per system and one column per metric and data set.

    A run on a data set that the table does not have gets columns of its own.
    """
    table = load_paper_tables()[number]
    data_sets = dict.fromkeys(data for data, _ in table.columns)
    has_other_data = any(run.data not in data_sets for run in runs)
    other_metrics = dict.fromkeys(metric for _, metric in table.columns) if has_other_data else {}
    columns = [*table.columns, *((OTHER_DATA, metric) for metric in other_metrics)]
    rows: list[tuple[str, ...]] = []
    group = None
    for row in table.rows:
        if row.get("group") != group:
            group = row["group"]
            rows.append((group,))
        rows.append((row["name"], row["source"], *row["values"], *[ABSENT] * len(other_metrics)))
    if runs:
        rows.append((OUR_RUNS,))
    for run in runs:
        run_data = run.data if run.data in data_sets else OTHER_DATA
        cells = (CELLS[metric](run) if data == run_data else ABSENT for data, metric in columns)
        rows.append((run.name, run.data, *cells))
    several = len({data for data, _ in columns}) > 1
    names = [f"{data} {metric}" if several else metric for data, metric in columns]
    return Table(("System", "Source or data", *names), tuple(rows), 2)


def relations_table(runs: Sequence[ScoredRun]) -> Table:
    """Return tables 9 and 10, F1 by relation. Relations that the paper does not have come last."""
    table = load_paper_tables()["9/10"]
    names = {row["id"]: row["name"] for row in table.rows}
    values = {row["id"]: tuple(row["values"]) for row in table.rows}
    for run in runs:
        for id, name in zip(run.relations.ids, run.relations.names, strict=True):
            names.setdefault(id, name)
    missing = (ABSENT,) * len(table.columns)
    return Table(
        ("Relation", "Name", *(f"{column} (paper)" for column in table.columns), *map(_name_with_data, runs)),
        tuple(
            (id, name, *values.get(id, missing), *(_relation_f1(run, id) for run in runs)) for id, name in names.items()
        ),
        labels=2,
    )


def runs_by_relation(runs: Sequence[ScoredRun]) -> Table:
    """Return F1 by relation of our runs only. An id with different names in two relation sets has two rows."""
    names_by_run = [dict(zip(run.relations.ids, run.relations.names, strict=True)) for run in runs]
    relations = dict.fromkeys(pair for names in names_by_run for pair in names.items())
    rows = []
    for id, name in relations:
        cells = (
            _relation_f1(run, id) if names.get(id) == name else ABSENT
            for run, names in zip(runs, names_by_run, strict=True)
        )
        rows.append((id, name, *cells))
    return Table(("Relation", "Name", *map(_name_with_data, runs)), tuple(rows), labels=2)


def _relation_f1(run: ScoredRun, id: str) -> str:
    """Return F1 of a relation; `ABSENT`, not 0, if it is neither gold nor predicted."""
    counts = run.scores.per_relation.get(id)
    return ABSENT if counts is None or not (counts.gold or counts.predicted) else two_digits(counts.f1)


def _name_with_data(run: ScoredRun) -> str:
    return f"{run.name} ({run.data})"
