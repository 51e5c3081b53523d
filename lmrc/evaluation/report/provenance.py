"""Provenance of runs: when, with which code, models and hardware each was made, and the options of its config.

No folder of the machine is shown: a path stands with the names of its last two parts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from lmrc.common.errors import RunError
from lmrc.evaluation.paper_scores import ABSENT
from lmrc.evaluation.report.artifacts import SEPARATORS, ReportItem
from lmrc.evaluation.scored_run import ScoredRun
from lmrc.evaluation.tables.table import Table
from lmrc.runs.events import History
from lmrc.runs.run_folder import MAY_CHANGE, MODELS, PATHS, RunFolder, flatten, read_config
from lmrc.runs.run_kinds import run_kind

# Options that say where a run works and not what it computes.
UNSHOWN = (*MAY_CHANGE, "run.", "work.", "server.concurrency", "server.timeout_seconds", "server.retries")

# Options with a model or other input, by the name of their row. The first that is set is shown.
INPUTS = {
    "Encoder": ("model.encoder",),
    "RCP": ("rcp",),
    "Candidates": ("candidates",),
    "LM": ("answers", "model.base", "base", "rc"),
    "Fusion": ("fusion",),
    "Training documents": ("data.train",),
}


def provenance_item(folders: Mapping[str, Path], runs: Sequence[ScoredRun] = ()) -> ReportItem:
    """Return the table with kind, date, code, inputs, hardware, time and best score of each run, a column per run.

    Rows that are not known of any run are omitted.

    Args:
        folders: all runs by name, including those that only trained.
        runs: the scored runs, whose documents are shown.
    """
    documents = {run.name: run.data for run in runs}
    facts_by_run = [_facts(folder) | {"Documents": documents.get(name)} for name, folder in folders.items()]
    rows = [(row, *(facts[row] or ABSENT for facts in facts_by_run)) for row in facts_by_run[0]]
    known = tuple(row for row in rows if set(row[1:]) != {ABSENT})
    return ReportItem("runs", "Runs", Table(("", *folders), known, labels=1 + len(folders)), folded=False)


def provenance_line(folder: Path) -> list[str]:
    """Return date and code of a run, for the line below the title; unknown ones are omitted."""
    facts = _facts(folder)
    return [text for row in ("Date", "Code") if (text := facts.get(row))]


def option_items(folders: Mapping[str, Path]) -> list[ReportItem]:
    """Return a table of options for each kind of run, with those that differ between its runs first."""
    by_kind: dict[str, dict[str, Mapping[str, str]]] = {}
    for name, folder in folders.items():
        by_kind.setdefault(_kind(folder), {})[name] = _options(folder)
    return [
        ReportItem(f"options-{SEPARATORS.sub('-', kind)}", f"Options: {kind}", _option_table(options))
        for kind, options in by_kind.items()
        if any(options.values())
    ]


def _option_table(options: Mapping[str, Mapping[str, str]]) -> Table:
    names = dict.fromkeys(name for some in options.values() for name in some)
    rows = [(name, *(some.get(name, ABSENT) for some in options.values())) for name in names]
    parts = {
        "Different": [row for row in rows if len(set(row[1:])) > 1],
        "Alike": [row for row in rows if len(set(row[1:])) == 1],
    }
    several = len(options) > 1
    shown = [line for heading, part in parts.items() if part for line in ([(heading,)] * several + part)]
    return Table(("Option", *options), tuple(shown), labels=1 + len(options))


def _kind(folder: Path) -> str:
    kind = run_kind(_config(folder))
    return "run" if kind is None else kind.name


def _config(folder: Path) -> dict[str, Any]:
    try:
        return read_config(folder)
    except RunError:
        return {}


def _options(folder: Path) -> dict[str, str]:
    flat = flatten(_config(folder))
    return {name: _value(name, value) for name, value in flat.items() if not name.startswith(UNSHOWN)}


def _value(name: str, value: Any) -> str:
    """Return an option as text: nothing as "none", and paths without the folders of the machine."""
    if isinstance(value, list):
        return ", ".join(_value(name, item) for item in value) or "none"
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _short(str(value)) if name in PATHS or name in MODELS or str(value).startswith("/") else str(value)


def _short(path: str) -> str:
    """Return the last two parts of a path."""
    return "/".join(Path(path).parts[-2:]).lstrip("/")


def _facts(folder: Path) -> dict[str, str | None]:
    """Return what is known of a run by row; None for what is not."""
    config, environment = flatten(_config(folder)), _environment(folder)
    done = RunFolder(folder).result() or {}
    events = History(folder).read()
    packages = environment.get("packages") or {}
    inputs = {
        row: next((_short(str(config[option])) for option in options if config.get(option)), None)
        for row, options in INPUTS.items()
    }
    if config.get("system") == "encoder":
        inputs["LM"] = None
    seconds, best = done.get("seconds"), done.get("best")
    return {
        "Kind": _kind(folder),
        "Date": str(events[-1]["time"])[:10] if events and "time" in events[-1] else None,
        "Documents": None,
        **inputs,
        "Seed": None if config.get("run.seed") is None else str(config["run.seed"]),
        "Best on dev": None if best is None else f"{done.get('metric')} {best:.4g}, step {done.get('best_step', 0):,}",
        "Time (h:min:s)": None if seconds is None else str(timedelta(seconds=round(seconds))),
        "Hardware": _hardware(environment),
        "Code": _code(environment),
        "Software": ", ".join(f"{name} {packages[name]}" for name in ("torch", "transformers") if name in packages),
    }


def _environment(folder: Path) -> dict[str, Any]:
    try:
        environment = json.loads((folder / "environment.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return environment if isinstance(environment, dict) else {}


def _code(environment: Mapping[str, Any]) -> str | None:
    """Return the version of this package with its commit, such as "lmrc 0.1.0, commit 1a2b3c4 with changes"."""
    if "lmrc" not in environment:
        return None
    git = environment.get("git") or {}
    commit = f", commit {git['commit'][:7]}" if git.get("commit") else ""
    return f"lmrc {environment['lmrc']}{commit}{' with changes' if git.get('dirty') else ''}"


def _hardware(environment: Mapping[str, Any]) -> str | None:
    """Return the GPUs of the first process, or the cores it may use without any, with its memory."""
    names = [str(gpu.get("name")) for gpu in environment.get("gpus") or ()]
    if names:
        return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    cores, memory = environment.get("cpus"), environment.get("memory")
    if not cores:
        return None
    words = "1 core" if cores == 1 else f"{cores} cores"
    return words if not memory else f"{words}, {memory / 2**30:.0f} GiB"
