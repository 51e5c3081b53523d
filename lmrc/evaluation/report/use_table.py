"""The table of a report with the time, the throughput and the cost of each run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmrc.evaluation.paper_scores import ABSENT
from lmrc.evaluation.report.artifacts import ReportItem
from lmrc.evaluation.tables.table import Table
from lmrc.usage.record import PARTS, run_figures, short

ROWS = {
    "documents_per_second": "Documents per second",
    "documents_per_second_and_gpu": "Documents per second and GPU",
    "tokens_per_second": "Tokens per second",
    "tokens_per_second_and_gpu": "Tokens per second and GPU",
    "mfu": "MFU, %",
    "gpu_utilization": "GPUs busy (NVML), %",
    "gpu_memory_gib": "Peak memory per GPU, GiB",
    "gpu_hours": "GPU-hours",
    "core_hours": "Core-hours",
    "kwh": "kWh of the GPUs",
    "price": "Price",
}
# Figures that add up over runs.
SUMMED = ("gpu_hours", "core_hours", "kwh", "price")
TOTAL = "All"
NOTES = (
    "Hours are those of all processes from their start to their end, also of attempts that were killed. Documents and "
    "tokens are per second of training steps, and of computing units. MFU: operations of the model's matrix products "
    "by the peak of the GPUs. Time in start: loading of code, data and model.",
)


def use_item(folders: Mapping[str, Path]) -> ReportItem | None:
    """Return the table of the runs in `folders`; None if no run has recorded its use."""
    found = {name: figures for name, folder in folders.items() if (figures := run_figures(folder))}
    if not found:
        return None
    if len(found) > 1:
        found[TOTAL] = {name: sum(f.get(name, 0) for f in found.values()) for name in SUMMED} | {"shares": {}}
    rows = [(label, *(_cell(figures.get(name)) for figures in found.values())) for name, label in ROWS.items()]
    rows += [
        (f"Time in {part}, %", *(_cell(figures.get("shares", {}).get(part)) for figures in found.values()))
        for part in PARTS
    ]
    kept = tuple(row for row in rows if any(cell not in (ABSENT, "0") for cell in row[1:]))
    return ReportItem("use", "Use of the hardware and cost", Table(("", *found), kept), NOTES)


def _cell(value: Any) -> str:
    return ABSENT if value is None else short(value)
