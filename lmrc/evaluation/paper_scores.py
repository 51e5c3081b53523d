"""The printed scores of the paper, as data: `paper.json`, each row with its source as printed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

ABSENT = "-"
"""Stands where there is no number, as in the paper."""

STATISTICS = ("candidate_pairs", "na_pairs", "relation_pairs", "triples")
"""The figures of the paper's table 1, in its order, by the names of `lmrc data stats`."""


@dataclass(frozen=True, slots=True)
class PaperTable:
    """A table of the paper."""

    number: str
    """As printed: "3a"; "9/10" is one table on two pages."""
    caption: str
    columns: tuple[Any, ...]
    """A name each, or (data set, figure)."""
    rows: tuple[dict[str, Any], ...]
    """`name`, `source` and the `values` of the columns, as printed; `group` and `id` where there are any."""
    note: str = ""

    @property
    def title(self) -> str:
        """Number and caption."""
        return f"Table {self.number}: {self.caption}"


@cache
def printed() -> dict[str, PaperTable]:
    """The tables of the paper by number."""
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


def data_set(statistics: Mapping[str, int | float]) -> str | None:
    """Which data set of the paper has these figures, by table 1: all that are printed of it must agree."""
    table = printed()["1"]
    for column, name in enumerate(table.columns):
        known = [row["values"][column] for row in table.rows]
        counted = [f"{statistics[key]:,}" for key in STATISTICS]
        if all(value in (ABSENT, count) for value, count in zip(known, counted, strict=True)):
            return str(name)
    return None
