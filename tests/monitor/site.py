"""Run folders, and a fake SLURM that knows their jobs."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from lmrc.config.schema import (
    BuildConfig,
    ClassifyConfig,
    DemoConfig,
    FitConfig,
    JoinConfig,
    ProposeConfig,
    RcConfig,
    RcpConfig,
    ScoreConfig,
    SplitConfig,
    SummaryConfig,
)
from lmrc.inference.work_units import Units, WorkPlan, encode
from lmrc.launcher.slurm import commands as slurm
from lmrc.monitor.status import Status, run_statuses
from lmrc.runs.heartbeat import Process
from lmrc.runs.shared_fs import Files

Capture = pytest.CaptureFixture[str]


CONFIGS = {
    "rcp": RcpConfig(),
    "rc": RcConfig(),
    "propose": ProposeConfig(),
    "classify": ClassifyConfig(),
    "build": BuildConfig(),
    "split": SplitConfig(),
    "join": JoinConfig(),
    "fit": FitConfig(),
    "score": ScoreConfig(),
    "summary": SummaryConfig(),
    "demo": DemoConfig(),
}


def make(folder: Path, kind: str = "rcp") -> Path:
    (folder / "log").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIGS[kind].model_dump(mode="json")))
    return folder


class Site:
    """A fake SLURM with these jobs. `asked` lists the commands that it received."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *jobs: tuple[str, str, str, int, str], ended: str = "") -> None:
        self.asked: list[tuple[str, ...]] = []
        self.silent = False
        self._jobs, self._ended = jobs, ended
        monkeypatch.setattr(slurm, "is_available", lambda: True)
        monkeypatch.setattr(slurm, "run_command", self.ask)

    def ask(self, *command: str) -> str:
        self.asked.append(command)
        if self.silent:
            raise slurm.SlurmError("squeue: Unable to contact slurm controller")
        if command[0] == "sacct":
            return self._ended
        return "".join(
            f"{one:<64}{two:<32}{three:<64}{four:<16}{five:<256}\n" for one, two, three, four, five in self._jobs
        )


def look(run: Path) -> Status:
    return run_statuses([run])[0][0]


def progress(run: Path, **changes: Any) -> None:
    figures = {"step": 40, "total": 192, "epoch": 2, "loss": 0.5, "unit": "documents"} | {
        "per_second": 38.0, "seconds_left": 90.0, "time": time.time() + 1, **changes
    }  # fmt: skip
    (run / "log" / "progress.json").write_text(json.dumps(figures))


def units(run: Path, total: int, done: int, failed: int = 0) -> Units:
    found = Units(run, Files())
    found.prepare(WorkPlan(documents=total * 4, docs_per_unit=4, units=total, identity="x"))
    schema = pa.schema([("x", pa.int64())])
    for unit in range(done):
        found.finish(unit, encode([{"x": 1}], schema))
        path = found.path("part", unit, suffix=".arrow")
        os.utime(path, (1000.0 + 10 * unit, 1000.0 + 10 * unit))
    for unit in range(done, done + failed):
        found.path("claim", unit, 1).touch()
        found.fail(unit, 1, {"documents": [unit * 4, unit * 4 + 4], "error": "ValueError: poison"})
    return found


def card(run: Path, host: str = "") -> Path:
    process = Process.current(None)
    process = dataclasses.replace(process, host=host or process.host)
    path = run / "units" / f"worker-{process.owner}"
    path.write_bytes(process.content())
    return path
