"""The state of a run, whatever SLURM, the lease, the workers and the history say of it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

from lmrc.cli import main
from lmrc.cluster import slurm
from lmrc.cluster.watch.status import Status, statuses
from lmrc.cluster.work.files import Files
from lmrc.cluster.work.lease import Lease
from lmrc.cluster.work.life import Process
from lmrc.cluster.work.units import Plan, Units, encode
from lmrc.config import ClassifyConfig, DemoConfig, ProposeConfig, RcConfig, RcpConfig
from lmrc.history import History

Capture = pytest.CaptureFixture[str]
CONFIGS = {
    "rcp": RcpConfig(),
    "rc": RcConfig(),
    "propose": ProposeConfig(),
    "classify": ClassifyConfig(),
    "demo": DemoConfig(),
}


def make(folder: Path, kind: str = "rcp") -> Path:
    (folder / "log").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIGS[kind].model_dump(mode="json")))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make(tmp_path / "runs" / "a")


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "is_here", lambda: False)


class Site:
    """A SLURM that knows these jobs; `asked` are the commands that it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *jobs: tuple[str, str, str, int, str], ended: str = "") -> None:
        self.asked: list[tuple[str, ...]] = []
        self.silent = False
        self._jobs, self._ended = jobs, ended
        monkeypatch.setattr(slurm, "is_here", lambda: True)
        monkeypatch.setattr(slurm, "ask", self.ask)

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
    return statuses([run])[0][0]


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_config_tells_the_stage(tmp_path: Path, kind: str) -> None:
    status = look(make(tmp_path / "a", kind))
    assert (status.kind, status.state, status.job) == (kind, "new", None)


def test_done_is_the_truth_whatever_slurm_says(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Site(monkeypatch, ("7", "PENDING", "BeginTime", 1, ""))
    History(run).add("submitted", job="7")
    History(run).add("died", job="7", restart=0, cause="rank 0 on n1: gone", step=3)
    (run / "DONE").write_text(json.dumps({"metric": "f1", "best": 50.5, "best_step": 4, "steps": 9}))
    status = look(run)
    assert (status.state, status.best, status.best_step, status.step) == ("done", 50.5, 4, 9)
    assert (status.died, status.error) == (1, None)


def test_queued_with_the_reason_although_it_was_preempted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Site(monkeypatch, ("7", "PENDING", "BeginTime", 1, ""))
    for event in ("submitted", "started", "preempted", "requeued"):
        History(run).add(event, job="7", restart=0, hosts="n1,n1", cause="SIGTERM at step 3/9")
    status = look(run)
    assert (status.state, status.detail, status.job) == ("queued", "BeginTime", "7")
    assert (status.preempted, status.requeued, status.died) == (1, 1, 0)


def test_running_since_its_last_start(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Site(monkeypatch, ("7", "RUNNING", "None", 1, "n[1-2]"))
    History(run).add("submitted", job="7")
    History(run).add("started", job="7", restart=0, hosts="n1,n2")
    status = look(run)
    # Of this second start nothing was heard yet.
    assert (status.state, status.since, status.detail) == ("running", None, "starting")
    History(run).add("started", job="7", restart=1, hosts="n1,n2")
    status = look(run)
    assert (status.state, status.nodes, status.detail) == ("running", "n[1-2]", "")
    assert status.since == History(run).read()[-1]["time"]


def progress(run: Path, **changes: Any) -> None:
    figures = {"step": 40, "total": 192, "epoch": 2, "loss": 0.5, "unit": "documents"} | {
        "per_second": 38.0, "seconds_left": 90.0, "time": time.time() + 1, **changes
    }  # fmt: skip
    (run / "log" / "progress.json").write_text(json.dumps(figures))


def test_progress_and_best_score(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Site(monkeypatch, ("7", "RUNNING", "None", 0, "n1"))
    History(run).add("started", job="7", restart=0, hosts="n1")
    progress(run)
    rows = [
        {"step": 9, "loss": 1.0},
        {"step": 9, "dev_f1": 20.0},
        {"step": 20, "dev_f1": 30.0},
        {"step": 40, "dev_f1": 25.0},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 41, "dev_')
    status = look(run)
    assert (status.step, status.total, status.epoch, status.loss) == (40, 192, 2, 0.5)
    assert (status.unit, status.per_second, status.seconds_left) == ("documents", 38.0, 90.0)
    assert (status.metric, status.best, status.best_step) == ("f1", 30.0, 20)
    # What an earlier start left says nothing of the speed now.
    progress(run, time=time.time() - 100)
    status = look(run)
    assert (status.step, status.per_second, status.seconds_left) == (40, None, None)


def test_a_loss_is_best_when_least(tmp_path: Path) -> None:
    run = make(tmp_path / "b", "rc")
    rows = [{"step": 5, "loss": 0.7, "epoch": 0}, {"step": 5, "dev_loss": 0.5}, {"step": 9, "dev_loss": 0.3}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status = look(run)
    assert (status.metric, status.best, status.best_step) == ("loss", 0.3, 9)
    assert (status.step, status.loss, status.total) == (5, 0.7, None)  # of a run from before progress.json


def test_one_call_for_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, ("7", "RUNNING", "None", 0, "n1"), ("8", "PENDING", "Priority", 0, ""))
    runs = [make(tmp_path / name) for name in ("a", "b")]
    for run, job in zip(runs, ("7", "8"), strict=True):
        History(run).add("submitted", job=job)
    assert [status.state for status in statuses(runs)[0]] == ["running", "queued"]
    assert [command[0] for command in site.asked] == ["squeue"]


def test_workers_of_an_array_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path / "a", "propose")
    History(run).add("submitted", job="7")
    History(run).add("failed", job="7_3", restart=0, cause="its own fault")
    Site(
        monkeypatch,
        *(("7_0", "RUNNING", "None", 0, "n1"), ("7_1", "RUNNING", "None", 0, "n2")),
        *(("7_2", "PENDING", "Resources", 0, ""), ("7_3", "FAILED", "None", 0, "n2")),
    )
    status = look(run)
    assert (status.state, status.detail, status.nodes, status.job) == (
        "running",
        "2 workers, 1 wait (Resources)",
        "n1,n2",
        "7",
    )
    assert status.error == "its own fault"


@pytest.mark.parametrize(
    ("event", "state"),
    [("failed", "failed"), ("cancelled", "cancelled"), ("stopped", "stopped"), ("preempted", "stopped")],
)
def test_how_it_ended(run: Path, event: str, state: str) -> None:
    History(run).add("started", job="local-1", restart=0, hosts="here")
    History(run).add(event, job="local-1", restart=0, cause="the cause")
    status = look(run)
    assert (status.state, status.detail) == (state, "the cause")


@pytest.mark.parametrize(
    ("word", "state"), [("CANCELLED by 0", "cancelled"), ("TIMEOUT", "failed"), ("COMPLETED", "dead")]
)
def test_the_accounting_knows_jobs_that_the_controller_forgot(
    run: Path, monkeypatch: pytest.MonkeyPatch, word: str, state: str
) -> None:
    History(run).add("submitted", job="7")
    site = Site(monkeypatch, ended=f"7|{word}|n1\n")
    status = look(run)
    assert status.state == state
    assert "the same command resumes" in status.detail
    assert [command[0] for command in site.asked] == ["squeue", "sacct"]


def test_a_lease_that_lives_runs_and_one_whose_process_is_gone_does_not(run: Path) -> None:
    History(run).add("started", job=f"local-{os.getpid()}", restart=0, hosts="here")
    with Lease(run, job=""):
        status = look(run)
        assert status.state == "running"
        assert str(os.getpid()) in status.detail
    assert look(run).state == "dead"
    assert "the same command resumes" in look(run).detail


@pytest.mark.parametrize("known", [True, False])
def test_a_job_that_slurm_ended_runs_no_more_though_its_lease_is_young(
    run: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    Site(monkeypatch, *((("7", "CANCELLED", "None", 0, "n1"),) if known else ()))
    History(run).add("started", job="7", restart=0, hosts="elsewhere")
    process = dataclasses.replace(Process.current("7"), host="elsewhere")
    (run / "lease").mkdir()
    (run / "lease" / "holder-00000001").write_bytes(process.content())
    assert look(run).state == ("cancelled" if known else "running")


def test_a_failure_here_is_told_by_the_notes_of_its_processes(run: Path) -> None:
    History(run).add("started", job="local-5", restart=0, hosts="here")
    (run / "log" / "failures").mkdir()
    note = {"rank": 0, "host": "here", "cause": "no corpus", "time": 1.0, "is_mistake": True, "lost_touch": False}
    (run / "log" / "failures" / "local-5-0-00000.json").write_text(json.dumps(note))
    assert (look(run).state, look(run).detail, look(run).error) == ("failed", "no corpus", "no corpus")
    # A later start is not judged by it.
    History(run).add("started", job="local-6", restart=0, hosts="here")
    assert look(run).state == "dead"


def test_a_silent_slurm_is_said_once_and_makes_no_verdict(
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


def units(run: Path, total: int, done: int, failed: int = 0) -> Units:
    found = Units(run, Files())
    found.prepare(Plan(documents=total * 4, unit_documents=4, units=total, identity="x"))
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


def test_parts_of_an_inference(tmp_path: Path) -> None:
    run = make(tmp_path / "a", "propose")
    units(run, 10, 4, failed=1)
    status = look(run)
    assert status.units == {"total": 10, "done": 4, "claimed": 0, "failed": 1}
    assert status.failures == ["unit 4 (documents 16 to 19): ValueError: poison"]
    assert status.error == status.failures[0]
    assert (status.state, status.seconds_left) == ("dead", None)
    card(run)
    status = look(run)
    # A part of four documents every ten seconds, and six parts to go.
    assert (status.state, status.unit) == ("running", "documents")
    assert status.per_second == pytest.approx(0.4)
    assert status.seconds_left == pytest.approx(60.0)


def test_a_worker_elsewhere_lives_by_its_signs(tmp_path: Path) -> None:
    run = make(tmp_path / "a", "propose")
    units(run, 10, 4)
    path = card(run, "elsewhere")
    assert (look(run).state, look(run).nodes) == ("running", "elsewhere")
    seconds = ProposeConfig().work.lease_seconds
    os.utime(path, (time.time() - seconds - 5,) * 2)
    assert look(run).state == "dead"


def test_workers_that_no_history_names_are_known_by_their_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path / "a", "propose")
    found = units(run, 10, 4)
    process = dataclasses.replace(Process.current("8"), submission="7", host="elsewhere")
    found.path("claim", 4, 1).write_bytes(process.content())  # its card is gone, as it is between two starts
    assert look(run).state == "unknown"
    Site(monkeypatch, ("7_1", "PENDING", "BeginTime", 1, ""))
    assert (look(run).state, look(run).job) == ("queued", "7")
    Site(monkeypatch, ("7_1", "FAILED", "None", 1, "n1"))
    assert (look(run).state, look(run).job) == ("failed", "7")


def test_a_night_without_workers_does_not_count(tmp_path: Path) -> None:
    run = make(tmp_path / "a", "propose")
    found = units(run, 20, 10)
    for unit in range(5):
        os.utime(found.path("part", unit, suffix=".arrow"), (1.0, 1.0))
    card(run)
    assert look(run).per_second == pytest.approx(0.4)


def test_a_demo_goes_on_as_its_stages_do(tmp_path: Path) -> None:
    demo = make(tmp_path / "runs" / "demo", "demo")
    stage = make(demo / "rcp")
    History(stage).add("failed", job="local-1", restart=0, cause="no")
    found = {status.run: status for status in statuses([demo, stage])[0]}
    assert (found[str(demo)].state, found[str(demo)].detail) == ("failed", "in rcp")


def test_the_table_fits_and_the_newest_is_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
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
    assert len(names) == 4  # code/ holds no runs
    assert names[2].startswith("…")
    assert all(line.endswith("…") for line in lines[2:])


def test_json_has_the_same_keys_for_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    make(tmp_path / "runs" / "a")
    units(make(tmp_path / "runs" / "b", "classify"), 3, 1)
    monkeypatch.chdir(tmp_path)
    assert main(["status", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len({tuple(one) for one in found}) == 1
    assert {one["run"]: one["units"] and one["units"]["done"] for one in found} == {"runs/a": None, "runs/b": 1}


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as there:
        there.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("tokyo")
def test_the_form_tells_events_in_words_and_utc(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
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


def test_a_run_is_found_by_name_and_an_unknown_one_names_the_nearest(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    make(run.parent / "docred-13b")
    monkeypatch.chdir(run.parents[1])
    assert main(["status", "docred-13b"]) == 0
    assert "runs/docred-13b (rcp)" in capsys.readouterr().out
    assert main(["status", "runs/docred-13"]) == 2
    assert "runs/docred-13 is no run folder: did you mean runs/docred-13b?" in capsys.readouterr().err


def test_no_runs_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["status"]) == 0
    assert "no runs" in capsys.readouterr().out
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_watch_shows_it_again_until_ctrl_c(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", nap)
    assert main(["status", "--watch", str(run)]) == 0  # the run is not taken for a number
    assert naps == [5.0, 5.0]
    assert capsys.readouterr().out.count("state ") == 2
    naps.clear()
    assert main(["status", str(run), "--watch", "2"]) == 0
    assert naps == [2.0, 2.0]
    assert main(["status", str(run), "--watch", "--json"]) == 2


def test_it_answers_without_torch() -> None:
    code = "import sys, lmrc.cluster.watch.status_table; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
