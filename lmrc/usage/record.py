"""Use of the hardware by a run: a record per attempt or worker in log/use/, and the figures of all records together.

A record is replaced every few seconds while the process works, so that a killed process loses seconds of its use.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

FOLDER = Path("log") / "use"
GIB = 2**30
JOULES_PER_KWH = 3.6e6
# Parts of the time besides work, in the order in which they are shown.
PARTS = ("start", "data", "evaluation", "checkpoint")
# Parts during which no training step is made. Collating data is part of a step.
NO_WORK = ("start", "evaluation", "checkpoint")


@dataclass(frozen=True, kw_only=True)
class Use:
    """Use of the hardware by one attempt at a training (all ranks), or by one worker.

    Seconds are summed over its processes, and those of GPUs over its GPUs.

    Attributes:
        processes: processes that work at the same time.
        gpus: GPUs of all processes.
        cores: CPU cores of all processes; they count only without a GPU.
        began, ended: Unix time.
        units: documents or tokens done; `unit` names which.
        flops: model FLOPs done (`lmrc.usage.flops`); 0 if unknown.
        peak: dense bf16 FLOP/s of one GPU; 0 if unknown.
        parts: seconds by part (PARTS).
        busy_seconds: utilization x seconds of the GPUs whose utilization was sampled for `sampled_seconds`.
        joules: energy of the GPUs; None if it is not measured.
        memory: peak of the allocated bytes per GPU, mean over the GPUs.
        is_worker: True for one of several independent workers.
    """

    seconds: float = 0.0
    processes: int = 1
    gpus: int = 0
    cores: int = 1
    began: float = 0.0
    ended: float = 0.0
    unit: str = "documents"
    units: float = 0.0
    flops: float = 0.0
    peak: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    busy_seconds: float = 0.0
    sampled_seconds: float = 0.0
    joules: float | None = None
    memory: float = 0.0
    gpu: str = ""
    is_worker: bool = False

    @property
    def work_seconds(self) -> float:
        """Return the seconds of training steps, or of computing units."""
        return self.seconds - sum(self.parts.get(part, 0.0) for part in NO_WORK)

    @property
    def gpu_seconds(self) -> float:
        """Return the seconds for which GPUs were held."""
        return self.seconds * self.gpus / self.processes

    @property
    def core_seconds(self) -> float:
        """Return the seconds for which CPU cores were held."""
        return self.seconds * self.cores / self.processes

    def since(self, before: Use) -> Use:
        """Return the use after an earlier record of the same attempt."""
        names = ("seconds", "units", "flops", "busy_seconds", "sampled_seconds")
        changes: dict[str, Any] = {name: getattr(self, name) - getattr(before, name) for name in names}
        changes["parts"] = {part: value - before.parts.get(part, 0.0) for part, value in self.parts.items()}
        if self.joules is not None and before.joules is not None:
            changes["joules"] = self.joules - before.joules
        return replace(self, began=before.ended, **changes)

    def write(self, folder: Path, name: str) -> None:
        """Write the record into a run folder. A full disk is ignored: the record is not worth a run."""
        path = folder / FOLDER / f"{name}.json"
        temporary = path.with_suffix(".tmp")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(asdict(self)) + "\n")
            temporary.replace(path)


def read_use(folder: Path) -> list[Use]:
    """Return the records of a run folder. A record of another version of the suite is read as far as it is known."""
    known = {field.name for field in fields(Use)}
    found = []
    for path in sorted((folder / FOLDER).glob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            content = json.loads(path.read_text())
            found.append(Use(**{name: value for name, value in content.items() if name in known}))
    return found


def utilization(use: Iterable[Use]) -> float | None:
    """Return the mean utilization of the GPUs in percent, as NVML reports it; None if it was not sampled."""
    records = list(use)
    sampled = sum(record.sampled_seconds for record in records)
    return 100.0 * sum(record.busy_seconds for record in records) / sampled if sampled else None


def mfu(use: Iterable[Use]) -> float | None:
    """Return the model FLOPs utilization in percent: model FLOPs by the peak of the GPUs while they made steps.

    None without a known GPU, or without counted FLOPs.
    """
    records = list(use)
    flops = sum(record.flops for record in records)
    possible = sum(record.peak * record.gpus * record.work_seconds / record.processes for record in records)
    if not flops or not possible or any(record.work_seconds > 0 and not record.peak for record in records):
        return None
    return 100.0 * flops / possible


def use_figures(use: Iterable[Use], gpu_hour_price: float | None = None) -> dict[str, Any]:
    """Return the figures of all records of a run, as in DONE; figures that are not known are left out.

    Args:
        gpu_hour_price: `cluster.gpu_hour_price`.

    Returns:
        `gpu_hours` (`core_hours` without a GPU), `price`, `kwh`, `mfu`, `gpu_utilization` (percent), `gpu_memory_gib`,
        units per second and per second and GPU while working (`tokens_per_second`, `tokens_per_second_and_gpu`), and
        `shares`: percent of the time by part, of which `start` is loading.
    """
    records = [record for record in use if record.seconds > 0]
    if not records:
        return {}
    figures: dict[str, Any] = {}
    unit, units = records[-1].unit, sum(record.units for record in records)
    gpu_seconds = sum(record.gpu_seconds for record in records)
    wall = _working_wall_seconds(records)
    if units and wall > 0:
        figures[f"{unit}_per_second"] = units / wall
        gpu_work = sum(record.work_seconds * record.gpus / record.processes for record in records)
        if gpu_work > 0:
            figures[f"{unit}_per_second_and_gpu"] = units / gpu_work
    if gpu_seconds:
        figures["gpu_hours"] = gpu_seconds / 3600
        if gpu_hour_price is not None:
            figures["price"] = gpu_seconds / 3600 * gpu_hour_price
    else:
        figures["core_hours"] = sum(record.core_seconds for record in records) / 3600
    joules = [record.joules for record in records if record.joules is not None]
    if joules:
        figures["kwh"] = sum(joules) / JOULES_PER_KWH
    known = {"mfu": mfu(records), "gpu_utilization": utilization(records)}
    figures |= {name: value for name, value in known.items() if value is not None}
    memory = max(record.memory for record in records)
    if memory:
        figures["gpu_memory_gib"] = memory / GIB
    seconds = sum(record.seconds for record in records)
    parts = {part: sum(record.parts.get(part, 0.0) for record in records) for part in PARTS}
    figures = {name: float(f"{value:.4g}") for name, value in figures.items()}
    figures["shares"] = {part: round(100 * value / seconds, 1) for part, value in parts.items() if value}
    return figures


def _working_wall_seconds(records: list[Use]) -> float:
    """Return the seconds by the clock in which the run worked: independent workers overlap, attempts do not."""
    if not any(record.is_worker for record in records):
        return sum(record.work_seconds / record.processes for record in records)
    total, until = 0.0, 0.0
    # A worker first loads its model, and computes until it ends.
    for begin, end in sorted((record.ended - record.work_seconds, record.ended) for record in records):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def short(value: float) -> str:
    """Return a number with three digits, or all digits before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def use_text(figures: Mapping[str, Any]) -> list[str]:
    """Return the figures of a run as short texts, such as "12.5 GPU-hours"."""
    texts = []
    for unit in ("documents", "tokens"):
        if f"{unit}_per_second" in figures:
            per_gpu = figures.get(f"{unit}_per_second_and_gpu")
            each = "" if per_gpu is None else f" ({short(per_gpu)} per GPU)"
            texts.append(f"{short(figures[f'{unit}_per_second'])} {unit}/s{each}")
    formats = {
        "mfu": "MFU {:.1f} %",
        "gpu_utilization": "GPUs busy {:.0f} %",
        "gpu_memory_gib": "{:.1f} GiB per GPU",
        "gpu_hours": "{:.3g} GPU-hours",
        "core_hours": "{:.3g} core-hours",
        "kwh": "{:.3g} kWh",
        "price": "price {:.2f}",
    }
    texts += [text.format(figures[name]) for name, text in formats.items() if name in figures]
    shares = figures.get("shares", {})
    texts += [f"{share:g} % {part}" for part, share in shares.items()]
    return texts


def run_figures(folder: Path, gpu_hour_price: float | None = None) -> dict[str, Any]:
    """Return the figures of a run: those in DONE, or up to now if it has not finished; empty if none are known."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        found = json.loads((folder / "DONE").read_text()).get("use")
        if isinstance(found, dict):
            return found
    return use_figures(read_use(folder), gpu_hour_price)
