"""The state of a run from SLURM, the lease, the workers and the history."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
import yaml

from lmrc.monitor.status import run_statuses
from lmrc.monitor.status_table import format_details
from lmrc.runs.events import History
from lmrc.runs.heartbeat import Process
from lmrc.runs.lease import Lease
from lmrc.usage.record import Use
from tests.monitor.site import CONFIGS, Site, look, make, units

pytestmark = pytest.mark.usefixtures("nowhere")


@pytest.mark.parametrize("kind", CONFIGS)
def test_stage_of_a_config(tmp_path: Path, kind: str) -> None:
    status = look(make(tmp_path / "a", kind))
    assert (status.kind, status.state, status.job) == (kind, "new", None)


def test_done_has_priority_over_slurm(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Site(monkeypatch, ("7", "PENDING", "BeginTime", 1, ""))
    History(run).add("submitted", job="7")
    History(run).add("died", job="7", restart=0, cause="rank 0 on n1: gone", step=3)
    (run / "DONE").write_text(json.dumps({"metric": "f1", "best": 50.5, "best_step": 4, "steps": 9}))
    status = look(run)
    assert (status.state, status.best, status.best_step, status.step) == ("done", 50.5, 4, 9)
    assert (status.died, status.error) == (1, None)


def test_requeued_job_is_queued_with_its_reason(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Site(monkeypatch, ("7", "PENDING", "BeginTime", 1, ""))
    for event in ("submitted", "started", "preempted", "requeued"):
        History(run).add(event, job="7", restart=0, hosts="n1,n1", cause="SIGTERM at step 3/9")
    status = look(run)
    assert (status.state, status.detail, status.job) == ("queued", "BeginTime", "7")
    assert (status.preempted, status.requeued, status.died) == (1, 1, 0)


def test_running_since_the_last_start(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Site(monkeypatch, ("7", "RUNNING", "None", 1, "n[1-2]"))
    History(run).add("submitted", job="7")
    History(run).add("started", job="7", restart=0, hosts="n1,n2")
    status = look(run)
    # The second start has not been recorded yet.
    assert (status.state, status.since, status.detail) == ("running", None, "starting")
    History(run).add("started", job="7", restart=1, hosts="n1,n2")
    status = look(run)
    assert (status.state, status.nodes, status.detail) == ("running", "n[1-2]", "")
    assert status.since == History(run).read()[-1]["time"]


def test_one_squeue_call_for_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(monkeypatch, ("7", "RUNNING", "None", 0, "n1"), ("8", "PENDING", "Priority", 0, ""))
    runs = [make(tmp_path / name) for name in ("a", "b")]
    for run, job in zip(runs, ("7", "8"), strict=True):
        History(run).add("submitted", job=job)
    assert [status.state for status in run_statuses(runs)[0]] == ["running", "queued"]
    assert [command[0] for command in site.asked] == ["squeue"]


def test_array_workers_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        "2 workers, 1 pending (Resources)",
        "n1,n2",
        "7",
    )
    assert status.error == "its own fault"


@pytest.mark.parametrize(
    ("event", "state"),
    [("failed", "failed"), ("cancelled", "cancelled"), ("stopped", "stopped"), ("preempted", "stopped")],
)
def test_state_after_the_last_event(run: Path, event: str, state: str) -> None:
    History(run).add("started", job="local-1", restart=0, hosts="here")
    History(run).add(event, job="local-1", restart=0, cause="the cause")
    status = look(run)
    assert (status.state, status.detail) == (state, "the cause")


@pytest.mark.parametrize(
    ("word", "state"), [("CANCELLED by 0", "cancelled"), ("TIMEOUT", "failed"), ("COMPLETED", "dead")]
)
def test_ended_jobs_from_accounting(run: Path, monkeypatch: pytest.MonkeyPatch, word: str, state: str) -> None:
    History(run).add("submitted", job="7")
    site = Site(monkeypatch, ended=f"7|{word}|n1|None\n")
    status = look(run)
    assert status.state == state
    assert "the same command resumes" in status.detail
    assert [command[0] for command in site.asked] == ["squeue", "sacct"]


@pytest.mark.parametrize("state", ["PENDING", "CANCELLED", "forgotten"])
def test_failed_dependency_is_reported(run: Path, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    """SLURM cancels the job within seconds and forgets it within minutes."""
    History(run).add("submitted", job="7")
    if state == "forgotten":
        Site(monkeypatch, ended="7|CANCELLED by 0||DependencyNeverSatisfied\n")
    else:
        Site(monkeypatch, ("7", state, "DependencyNeverSatisfied", 0, ""))
    status = look(run)
    assert status.state == "cancelled"
    assert status.detail.startswith("its dependency failed")


def test_live_lease_is_running_dead_lease_is_not(run: Path) -> None:
    History(run).add("started", job=f"local-{os.getpid()}", restart=0, hosts="here")
    with Lease(run, job=""):
        status = look(run)
        assert status.state == "running"
        assert str(os.getpid()) in status.detail
    assert look(run).state == "dead"
    assert "the same command resumes" in look(run).detail


@pytest.mark.parametrize("known", [True, False])
def test_job_ended_by_slurm_is_not_running(run: Path, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    Site(monkeypatch, *((("7", "CANCELLED", "None", 0, "n1"),) if known else ()))
    History(run).add("started", job="7", restart=0, hosts="elsewhere")
    process = dataclasses.replace(Process.current("7"), host="elsewhere")
    (run / "lease").mkdir()
    (run / "lease" / "holder-00000001").write_bytes(process.content())
    assert look(run).state == ("cancelled" if known else "running")


def test_failure_from_recorded_failures(run: Path) -> None:
    History(run).add("started", job="local-5", restart=0, hosts="here")
    (run / "log" / "failures").mkdir()
    note = {"rank": 0, "host": "here", "cause": "no corpus", "time": 1.0, "is_user_error": True, "lost_peer": False}
    (run / "log" / "failures" / "local-5-0-00000.json").write_text(json.dumps(note))
    assert (look(run).state, look(run).detail, look(run).error) == ("failed", "no corpus", "no corpus")
    # The failure does not affect a later start.
    History(run).add("started", job="local-6", restart=0, hosts="here")
    assert look(run).state == "dead"


def test_workers_without_history_are_found_by_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path / "a", "propose")
    found = units(run, 10, 4)
    process = dataclasses.replace(Process.current("8"), submission="7", host="elsewhere")
    found.path("claim", 4, 1).write_bytes(process.content())  # its heartbeat file is gone, as between two starts
    assert look(run).state == "unknown"
    Site(monkeypatch, ("7_1", "PENDING", "BeginTime", 1, ""))
    assert (look(run).state, look(run).job) == ("queued", "7")
    Site(monkeypatch, ("7_1", "FAILED", "None", 1, "n1"))
    assert (look(run).state, look(run).job) == ("failed", "7")


def test_state_of_a_demo_follows_its_stages(tmp_path: Path) -> None:
    demo = make(tmp_path / "runs" / "demo", "demo")
    stage = make(demo / "rcp")
    History(stage).add("failed", job="local-1", restart=0, cause="no")
    found = {status.run: status for status in run_statuses([demo, stage])[0]}
    assert (found[str(demo)].state, found[str(demo)].detail) == ("failed", "in rcp")


def test_bad_nodes_are_listed(tmp_path: Path, nowhere: None) -> None:
    run, other = make(tmp_path / "a"), make(tmp_path / "b")
    history = History(run)
    history.add("died", job="1", restart=0, cause="rank 3 on n3: node check: no memory", broken_nodes="n3")
    history.add("died", job="1", restart=1, cause="killed")
    history.add("died", job="1", restart=2, cause="rank 0 on n5: ECC", broken_nodes="n5,n6")
    status = look(run)
    assert status.bad_nodes == {
        "n3": "rank 3 on n3: node check: no memory",
        "n5": "rank 0 on n5: ECC",
        "n6": "rank 0 on n5: ECC",
    }
    assert "\nbad nodes   n3: rank 3 on n3: node check: no memory\n" in format_details(status)
    assert run_statuses([run, other])[1][1:] == [f"bad nodes of {run}: n3, n5, n6"]
    assert look(other).bad_nodes == {}
    (run / "DONE").write_text("{}")
    assert run_statuses([run, other])[1][1:] == []


def test_later_jobs_of_a_chain_are_not_workers(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = History(run)
    for number in (1, 2, 3):
        history.add("submitted", job=str(number), chain="x", number=number, total=3)
    history.add("link", job="1", restart=0, number=1, total=3)
    history.add("started", job="1", restart=0, hosts="n1")
    waiting = [(str(number), "PENDING", "Dependency", 0, "") for number in (2, 3)]
    Site(monkeypatch, *waiting, ("1", "RUNNING", "None", 0, "n1"))
    status = look(run)
    assert (status.state, status.job, status.nodes, status.detail) == ("running", "1", "n1", "job 1 of 3 of a chain")
    assert "job 1 begins, 1 of 3 of a chain" in format_details(status)
    Site(monkeypatch, *waiting)
    assert look(run).detail == "Dependency; job 2 of 3 of a chain"
    assert "state       queued: Dependency; job 2 of 3 of a chain (an earlier stage has not" in format_details(
        look(run)
    )


def test_use_of_a_run_and_its_price(tmp_path: Path) -> None:
    run = make(tmp_path / "a")
    assert look(run).use is None
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["cluster"]["gpu_hour_price"] = 2.0
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    Use(seconds=7200, gpus=1, units=72, ended=7200).write(run, "one")
    use = look(run).use
    assert use is not None and (use["gpu_hours"], use["price"], use["documents_per_second"]) == (2.0, 4.0, 0.01)
    details = format_details(look(run))
    assert "use         0.01 documents/s (0.01 per GPU), 2 GPU-hours, price 4.00" in details
    (run / "DONE").write_text(json.dumps({"steps": 9, "use": {"gpu_hours": 3.0}}))
    assert look(run).use == {"gpu_hours": 3.0}
    assert 'result      {"steps": 9}' in format_details(look(run))
