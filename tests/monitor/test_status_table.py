"""The plain text of `lmrc status`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from lmrc.cli.main import main
from lmrc.runs.events import History
from tests.monitor.site import Capture, Site, make, progress

pytestmark = pytest.mark.usefixtures("nowhere")


def test_slurm_without_answer_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    site = Site(monkeypatch)
    site.silent = True
    for name in ("a", "b"):
        History(make(tmp_path / "runs" / name)).add("submitted", job="7")
    monkeypatch.chdir(tmp_path)
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert out.count("SLURM does not answer") == 1
    assert out.count("unknown") == 2


def test_table_width_and_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    for number, name in enumerate(("old", "a-very-" + "long-" * 20 + "name", "new")):
        run = make(tmp_path / "runs" / name)
        progress(run)
        History(run).add("failed", job="local-1", restart=0, cause="word " * 60 + "\nsecond line")
        for path in (run / "config.yaml", run / "log" / "progress.json", run / "log" / "history.jsonl"):
            os.utime(path, (1000 + number, 1000 + number))
    make(tmp_path / "runs" / "new" / "inner")
    (tmp_path / "runs" / "old" / "code" / "configs").mkdir(parents=True)
    (tmp_path / "runs" / "old" / "code" / "config.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert main(["status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 120
    names = [line.split()[0] for line in lines[1:]]
    assert [names[0], names[1], names[3]] == ["runs/new/inner", "runs/new", "runs/old"]
    assert len(names) == 4  # code/ contains no runs
    assert names[2].startswith("…")
    assert all(line.endswith("…") for line in lines[2:])


def test_a_finished_run_shows_its_score_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    run = make(tmp_path / "runs" / "demo", "demo")
    (run / "DONE").write_text(json.dumps({"final_f1": 67.71234567, "rcp_f1": 95.8, "seconds": 720.4}))
    make(tmp_path / "runs" / "other")
    monkeypatch.chdir(tmp_path)
    assert main(["status"]) == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    (row,) = (row for row in rows if row.startswith("runs/demo "))
    assert heading.split()[-2:] == ["best", "note"]
    assert "f1 67.71" in row and row.endswith("took 12 min")
    assert main(["status", "runs/demo"]) == 0
    assert '"final_f1": 67.71,' in capsys.readouterr().out


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as there:
        there.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("tokyo")
def test_details_show_events_in_utc(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    Site(monkeypatch, ("7", "PENDING", "Priority", 2, ""))
    History(run).add("submitted", job="7")
    History(run).add("started", job="7", restart=0, hosts="n1,n1,n2")
    History(run).add("died", job="7", restart=0, cause="rank 1 on n1: killed", step=16)
    History(run).add("requeued", job="7", restart=0)
    (run / "log" / "7_0_log.out").touch()
    assert main(["status", str(run)]) == 0
    out = capsys.readouterr().out
    assert "queued (requeued once, died once): Priority (jobs of higher priority come first)" in out
    assert "7: pending (Priority), restarted twice" in out
    assert f"{datetime.now(timezone.utc):%Y-%m-%d %H:}" in out
    assert "started as job 7 on n1, n2" in out
    assert "died: rank 1 on n1: killed (saved up to step 16)" in out
    assert str(run / "log" / "7_0_log.out") in out


def test_find_run_by_name_or_suggest_the_nearest(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    make(run.parent / "docred-13b")
    monkeypatch.chdir(run.parents[1])
    assert main(["status", "docred-13b"]) == 0
    assert "runs/docred-13b (rcp)" in capsys.readouterr().out
    assert main(["status", "runs/docred-13"]) == 2
    assert "runs/docred-13 is not a run folder: did you mean runs/docred-13b?" in capsys.readouterr().err
