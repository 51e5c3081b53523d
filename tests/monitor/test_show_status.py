"""`lmrc status` as JSON, plain text and a page, once and repeatedly."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from lmrc.cli.main import main
from lmrc.monitor import show_status
from lmrc.runs.events import History
from tests.monitor.site import Capture, make, progress, units

pytestmark = pytest.mark.usefixtures("nowhere")


def test_json_has_the_same_keys_for_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    make(tmp_path / "runs" / "a")
    units(make(tmp_path / "runs" / "b", "classify"), 3, 1)
    monkeypatch.chdir(tmp_path)
    assert main(["status", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len({tuple(status) for status in found}) == 1
    assert {status["run"]: status["units"] and status["units"]["done"] for status in found} == {
        "runs/a": None,
        "runs/b": 1,
    }


def test_no_runs_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["status"]) == 0
    assert "no runs" in capsys.readouterr().out
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_watch_repeats_until_ctrl_c(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", nap)
    assert main(["status", "--watch", str(run)]) == 0  # the path is not parsed as the number of seconds
    assert naps == [5.0, 5.0]
    assert capsys.readouterr().out.count("state ") == 2
    naps.clear()
    assert main(["status", str(run), "--watch", "2"]) == 0
    assert naps == [2.0, 2.0]
    assert main(["status", str(run), "--watch", "--json"]) == 2


def test_status_does_not_import_torch() -> None:
    code = "import sys, lmrc.monitor.show_status; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


class Terminal(io.StringIO):
    """Output to a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Return the terminal that the command writes to."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    terminal = Terminal()
    monkeypatch.setattr(show_status, "Console", lambda: Console(file=terminal))
    return terminal


def test_a_terminal_gets_a_page_with_colors(run: Path, terminal: Terminal, capsys: Capture) -> None:
    History(run).add("failed", job="local-1", restart=0, cause="no memory")
    assert main(["status", str(run)]) == 0
    assert "\x1b[1;31mfailed: no memory" in terminal.getvalue()
    assert capsys.readouterr().out == ""


def test_no_color_and_dumb_terminals(
    run: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    History(run).add("failed", job="local-1", restart=0, cause="no memory")
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["status", str(run)]) == 0
    assert "failed: no memory" in terminal.getvalue() and "31m" not in terminal.getvalue()
    monkeypatch.setenv("TERM", "dumb")
    terminal.truncate(0)
    assert main(["status", str(run)]) == 0
    assert terminal.getvalue() == "" and "failed: no memory" in capsys.readouterr().out


def test_a_terminal_gets_json_if_it_is_wanted(run: Path, terminal: Terminal, capsys: Capture) -> None:
    assert main(["status", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["run"] == str(run)
    assert terminal.getvalue() == ""


def test_watch_draws_the_page_again(
    run: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    progress(run, step=40)

    def nap(seconds: float) -> None:
        if "41/192" in terminal.getvalue():
            raise KeyboardInterrupt
        progress(run, step=41)

    monkeypatch.setattr(time, "sleep", nap)
    assert main(["status", str(run), "--watch"]) == 0
    shown = terminal.getvalue()
    # On the other screen, which is left at the end.
    assert shown.index("\x1b[?1049h") < shown.index("40/192") < shown.index("41/192") < shown.index("\x1b[?1049l")
    assert "Ctrl-C ends only this view" in shown
