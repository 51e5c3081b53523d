"""The scores printed in the paper, read from `paper.json`. Each row has the source that the paper gives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

# Printed for a missing number, as in the paper.
ABSENT = "-"

# The rows of the paper's table 1, in its order, by the names of `lmrc data stats`.
STATISTICS = ("candidate_pairs", "na_pairs", "relation_pairs", "triples")


@dataclass(frozen=True, slots=True)
class PaperTable:
    """A table of the paper.

    Attributes:
        number: as printed: "3a"; "9/10" is one table on two pages.
        caption: as printed.
        columns: names, or (data set, metric) pairs.
        rows: `name`, `source` and `values` as printed; some have `group` and `id`.
        note: a note below the table.
    """

    number: str
    caption: str
    columns: tuple[Any, ...]
    rows: tuple[dict[str, Any], ...]
    note: str = ""


@cache
def load_paper_tables() -> dict[str, PaperTable]:
    """Return the tables of the paper by number."""
    raw = json.loads(files("lmrc.evaluation").joinpath("paper.json").read_text(encoding="utf-8"))
    return {
        number: PaperTable(
            number,
            table["caption"],
            tuple(tuple(column) if isinstance(column, list) else column for column in table["columns"]),
            tuple(table["rows"]),
            table.get("note", ""),
        )
        for number, table in raw["tables"].items()
    }


def data_set_by_statistics(statistics: Mapping[str, int | float]) -> str | None:
    """Return the data set of the paper whose printed statistics (table 1) all agree with `statistics`, or None."""
    table = load_paper_tables()["1"]
    counted = [f"{statistics[key]:,}" for key in STATISTICS]
    for column, name in enumerate(table.columns):
        values = [row["values"][column] for row in table.rows]
        if all(value in (ABSENT, count) for value, count in zip(values, counted, strict=True)):
            return str(name)
    return None
