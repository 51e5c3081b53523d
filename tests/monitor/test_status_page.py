"""The page of `lmrc status` on a terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from lmrc.monitor.run_state import find_runs
from lmrc.monitor.status import Status, run_statuses
from lmrc.monitor.status_page import STYLES, pipelines, status_page
from lmrc.runs.events import History
from tests.monitor.site import Site, make, progress, units

pytestmark = pytest.mark.usefixtures("nowhere")


def lines(folder: Path, width: int = 140, colors: bool = False) -> list[str]:
    """Return the lines of the page for all runs in a folder."""
    console = Console(file=io.StringIO(), width=width, force_terminal=colors, color_system="256" if colors else None)
    console.print(status_page(*run_statuses(find_runs([folder])), width))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.splitlines()]


def test_runs_with_bars_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Site(monkeypatch, ("7", "RUNNING", "None", 0, "n[1-2]"))
    training = make(tmp_path / "runs" / "a")
    History(training).add("submitted", job="7")
    History(training).add("started", job="7", restart=0, hosts="n1,n2")
    progress(training, step=96, total=192)
    units(make(tmp_path / "runs" / "b", "classify"), 4, 1)
    History(make(tmp_path / "runs" / "c", "rc")).add("failed", job="local-1", restart=0, cause="[red] no\nmemory")
    shown = lines(tmp_path / "runs", 200)
    assert shown[0] == "1 running · 1 failed · 1 dead"
    rows = {line.split()[0].rpartition("/")[2]: line for line in shown[2:]}
    assert f"{'━' * 7:<14} 96/192" in rows["a"] and f"{'━' * 3}╸{'':<10} 1/4 units" in rows["b"]
    # Text in brackets is no markup.
    assert "job 7 on n[1-2]" in rows["a"] and "90 s" in rows["a"] and "[red] no memory" in rows["c"]
    assert "loss" in shown[1] and "progress" in shown[1]
    assert max(map(len, lines(tmp_path / "runs", 80))) <= 80


def test_narrow_terminals_show_all_states(tmp_path: Path) -> None:
    """Only the beginning of the runs' names and the end of the notes are left out."""
    folder = tmp_path / "a-folder-with-a-long-name" / "runs"
    progress(make(folder / "rcp-66"), step=96, total=192)
    History(make(folder / "rc-66", "rc")).add("failed", job="local-1", restart=0, cause="no memory " * 9)
    shown = lines(folder, 80)
    assert max(map(len, shown)) <= 80
    assert shown[-3].split()[:4] == ["run", "stage", "state", "progress"]
    rows = {line.split()[0].rpartition("/")[2]: line for line in shown[-2:]}
    assert rows["rc-66"].startswith("…") and " rc " in rows["rc-66"]
    assert " failed " in rows["rc-66"] and rows["rc-66"].endswith("…") and " no memory" in rows["rc-66"]
    assert " 96/192" in rows["rcp-66"]


def test_colors_of_states(tmp_path: Path) -> None:
    for name in ("a", "b"):
        History(make(tmp_path / name)).add("failed", job="local-1", restart=0, cause="no memory")
    assert any("\x1b[1;31mfailed" in line for line in lines(tmp_path, colors=True))
    assert not any("\x1b" in line for line in lines(tmp_path))


def test_every_state_has_a_style() -> None:
    states = (Status.__doc__ or "").partition("state: ")[2].partition("detail:")[0]
    assert all(f"{state}," in states or f"{state} (" in states or f"or {state}" in states for state in STYLES)
    assert len(STYLES) == 9


def test_pipelines_have_a_bar_each(tmp_path: Path) -> None:
    for name, f1 in (("seed1", 57.5), ("seed2", None)):
        for kind in ("rcp", "rc", "score"):
            run = make(tmp_path / "all" / name / kind, kind)
            if f1 is not None:
                (run / "DONE").write_text(json.dumps({"f1": f1} if kind == "score" else {}))
    make(tmp_path / "all" / "summary", "summary")
    History(tmp_path / "all" / "seed2" / "rc").add("failed", job="local-1", restart=0, cause="no memory")
    found = pipelines(run_statuses(find_runs([tmp_path]))[0])
    assert {home.name: len(steps) for home, steps in found.items()} == {"seed1": 3, "seed2": 3}
    first, second = (line for line in lines(tmp_path) if " steps " in line)
    assert "3/3 steps  done" in first and first.endswith("f1 57.50")
    assert "0/3 steps  failed" in second


def test_details_have_rounded_results(tmp_path: Path) -> None:
    run = make(tmp_path / "a", "score")
    (run / "DONE").write_text(json.dumps({"f1": 57.4512345, "report": "runs/report.html", "members": ["a"]}))
    shown = lines(run)
    assert shown[0].endswith("a (score)")
    text = "\n".join(" ".join(line.split()) for line in shown)
    assert 'result f1 57.45\nreport runs/report.html\nmembers ["a"]' in text
    training = make(tmp_path / "b")
    progress(training, step=96, total=192)
    assert any(
        "step" in line and "━" in line and line.endswith("96/192 (epoch 3), loss 0.5000") for line in lines(training)
    )
