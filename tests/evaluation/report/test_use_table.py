"""The table of time, throughput and cost of the runs of a report."""

from __future__ import annotations

import json
from pathlib import Path

from lmrc.evaluation.report.use_table import use_item
from lmrc.evaluation.tables.table import Table
from lmrc.usage.record import Use


def test_runs_side_by_side_and_their_sum(tmp_path: Path) -> None:
    rcp, propose, nothing = (tmp_path / name for name in ("rcp", "propose", "data"))
    for folder in (rcp, propose, nothing):
        folder.mkdir()
    use = {"gpu_hours": 1.5, "price": 3.0, "mfu": 41.2, "documents_per_second": 90.0, "shares": {"start": 2.0}}
    (rcp / "DONE").write_text(json.dumps({"use": use}))
    # It has not finished.
    Use(seconds=1800, gpus=1, units=1000, unit="documents", is_worker=True, ended=1800).write(propose, "one")
    item = use_item({"rcp": rcp, "propose": propose, "data": nothing})
    assert item is not None and isinstance(item.content, Table)
    rows = {row[0]: row[1:] for row in item.content.rows}
    assert item.content.header == ("", "rcp", "propose", "All")
    assert rows["GPU-hours"] == ("1.5", "0.5", "2")
    assert rows["Price"] == ("3", "-", "3")
    assert rows["MFU, %"] == ("41.2", "-", "-")
    assert rows["Documents per second"] == ("90", "0.556", "-")
    assert rows["Time in start, %"] == ("2", "-", "-")
    assert "Core-hours" not in rows and "Tokens per second" not in rows


def test_no_table_without_records(tmp_path: Path) -> None:
    assert use_item({"a": tmp_path}) is None


def test_no_sum_of_a_single_run(tmp_path: Path) -> None:
    (tmp_path / "DONE").write_text('{"use": {"core_hours": 1.0}}')
    item = use_item({"a": tmp_path})
    assert item is not None and isinstance(item.content, Table) and item.content.header == ("", "a")
