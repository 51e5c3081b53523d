from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from lmrc.config.schema import ClusterOptions
from lmrc.launcher.slurm import commands as slurm
from lmrc.launcher.slurm import job_chain
from lmrc.launcher.slurm.job_chain import begin, cancel_later, find_chain, job_name, progress, resolve_requeue
from lmrc.launcher.slurm.requeue import at_the_end, note_interruption
from lmrc.runs.events import History
from lmrc.runs.failures import BROKEN_NODE_STATUS, Attempt, BrokenNode, note_failure
from tests.launcher.site import fake_site

KILLED = 128 + 9


class Queue:
    """A fake SLURM: the states of jobs, and the commands that it got."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.commands: list[str] = []

    def jobs(self, identifiers: Iterable[str]) -> list[slurm.SlurmJob]:
        return [slurm.SlurmJob(name, self.states.get(name, "RUNNING"), "", 0, "n1") for name in identifiers]


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    queue = Queue()

    def refuse(identifier: str) -> None:
        raise AssertionError("a job of a chain is never requeued")

    def cancel(names: Iterable[str]) -> None:
        queue.commands.append(f"cancel {' '.join(names)}")

    def exclude(job: str, names: Iterable[str]) -> None:
        queue.commands.append(f"exclude {','.join(names)} from {job}")

    monkeypatch.setenv("SLURM_JOB_ID", "1")
    for name in ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(slurm, "jobs", queue.jobs)
    monkeypatch.setattr(slurm, "job", lambda name: queue.jobs([name])[0])
    monkeypatch.setattr(slurm, "requeue", refuse)
    monkeypatch.setattr(slurm, "cancel_pending", cancel)
    monkeypatch.setattr(slurm, "exclude_nodes", exclude)
    return queue


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run that was submitted as jobs 1 to 4, after the chain of 7 and 8 had ended."""
    submit(tmp_path, "old", ["7", "8"])
    submit(tmp_path, "new", ["1", "2", "3", "4"])
    return tmp_path


def submit(run: Path, name: str, jobs: Sequence[str], after: Sequence[Path] = ()) -> None:
    for number, job in enumerate(jobs, 1):
        fields = {"chain": name, "number": number, "total": len(jobs), "after": [str(path) for path in after]}
        History(run).add("submitted", job=job, **fields)  # type: ignore[arg-type]


def reach(run: Path, step: int) -> None:
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / "checkpoints" / "latest").write_text(f"step-{step:06d}\n")


def last(run: Path) -> tuple[str, str]:
    event = History(run).read()[-1]
    return event["event"], str(event.get("cause", ""))


def test_position_in_the_chain(run: Path) -> None:
    chain = find_chain(run, "2")
    assert chain is not None
    assert (chain.number, chain.total, chain.previous, chain.later) == (2, 4, ("1",), ("3", "4"))
    assert find_chain(run, "99") is None
    History(run).add("submitted", job="99")
    assert find_chain(run, "99") is None


@pytest.mark.parametrize(
    ("options", "job_requeue", "chosen"),
    [
        ({}, 1, "requeue"),
        ({}, 0, "chain"),
        ({"sbatch": {"no_requeue": True}}, 1, "chain"),
        ({"requeue": "requeue"}, 0, "requeue"),
        ({"requeue": "never"}, 0, "never"),
        ({"requeue": "chain"}, 1, "chain"),
    ],
)
def test_choice(
    options: dict[str, object], job_requeue: int, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_site(tmp_path, monkeypatch, job_requeue=job_requeue)
    found, notes = resolve_requeue(ClusterOptions.model_validate(options))
    assert found.requeue == chosen
    assert bool(notes) == (options.get("requeue", "auto") == "auto" and chosen == "chain")


def test_job_names_are_of_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert job_name("rcp", Path("a/rcp")) == job_name("rcp", tmp_path / "a" / "rcp")
    assert job_name("rcp", Path("a/rcp")) != job_name("rcp", Path("b/rcp"))


def test_next_job_resumes_an_interrupted_one(run: Path, queue: Queue) -> None:
    assert begin(run, "1")
    reach(run, 10)
    note_interruption(run, Attempt("1"), "SIGUSR2 at step 10")
    note_interruption(run, Attempt("1"), "SIGUSR2 at step 10")
    at_the_end(run, Attempt("1"), 0, max_requeues=5)
    assert [event["event"] for event in History(run).read()][6:] == ["link", "preempted", "requeued"]
    assert History(run).read()[-1]["next"] == "2"
    at_the_end(run, Attempt("1"), 0, max_requeues=5)  # only once
    assert last(run)[0] == "requeued"
    assert begin(run, "2")
    assert queue.commands == []


def test_killed_job_is_followed_by_the_next(run: Path, queue: Queue) -> None:
    begin(run, "1")
    at_the_end(run, Attempt("1"), KILLED, max_requeues=5)
    assert [event["event"] for event in History(run).read()][-2:] == ["died", "requeued"]
    assert queue.commands == []


def test_later_jobs_avoid_a_bad_node(run: Path, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "n3")
    note_failure(run, Attempt("2"), BrokenNode("no memory"), 0)
    at_the_end(run, Attempt("2"), BROKEN_NODE_STATUS, max_requeues=5)
    assert queue.commands == ["exclude n3 from 3", "exclude n3 from 4"]


def test_later_jobs_are_cancelled_when_the_run_is_done(run: Path, queue: Queue) -> None:
    (run / "DONE").write_text("{}")
    at_the_end(run, Attempt("2"), 0, max_requeues=5)
    assert queue.commands == ["cancel 3 4"]
    assert not begin(run, "3")
    assert queue.commands[1:] == ["cancel 4"]


def test_program_error_ends_the_chain(run: Path, queue: Queue) -> None:
    note_failure(run, Attempt("1"), KeyError("relation"), 0)
    at_the_end(run, Attempt("1"), 1, max_requeues=5)
    assert last(run)[0] == "failed"
    assert queue.commands == ["cancel 2 3 4"]


def test_worker_that_fails_does_not_end_the_chain_of_the_others(run: Path, queue: Queue) -> None:
    note_failure(run, Attempt("1_3"), KeyError("relation"), 0)
    at_the_end(run, Attempt("1_3"), 1, max_requeues=5)
    assert queue.commands == []


def test_chain_without_progress_ends(run: Path, queue: Queue) -> None:
    reach(run, 10)
    assert begin(run, "1")
    assert begin(run, "2")  # the first one may have been preempted in its first seconds
    assert not begin(run, "3")
    assert last(run) == ("failed", "the last 2 jobs of the chain made no progress beyond 10")
    assert queue.commands == ["cancel 4"]


def test_progress_lets_the_chain_go_on(run: Path, queue: Queue) -> None:
    for job, step in (("1", 10), ("2", 10), ("3", 20), ("4", 20)):
        reach(run, step)
        assert begin(run, job)
    assert progress(run) == 20


def test_cancelled_job_ends_the_chain(run: Path, queue: Queue) -> None:
    begin(run, "1")
    queue.states["1"] = "PREEMPTED"
    reach(run, 1)
    assert begin(run, "2")
    queue.states["2"] = "CANCELLED"
    assert not begin(run, "3")
    assert last(run) == ("cancelled", "job 2 of the chain was cancelled")
    assert queue.commands == ["cancel 4"]


def test_state_of_a_completing_job_is_awaited(run: Path, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.states["1"] = "COMPLETING"
    monkeypatch.setattr("time.sleep", lambda _: queue.states.update({"1": "CANCELLED"}))
    assert not begin(run, "2")
    assert last(run) == ("cancelled", "job 1 of the chain was cancelled")


def test_job_that_does_not_complete_holds_the_chain_for_a_while_only(
    run: Path, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.states["1"] = "COMPLETING"
    monkeypatch.setattr(job_chain, "MAX_COMPLETING_SECONDS", 0.0)
    assert begin(run, "2")


def test_cancelled_job_that_saved_ends_the_chain(run: Path, queue: Queue) -> None:
    queue.states["1"] = "CANCELLED"
    note_interruption(run, Attempt("1"), "SIGTERM at step 10")
    at_the_end(run, Attempt("1"), 0, max_requeues=5)
    assert last(run) == ("cancelled", "the job was cancelled")
    assert queue.commands == ["cancel 2 3 4"]


def test_last_job_of_the_chain(run: Path, queue: Queue) -> None:
    note_interruption(run, Attempt("4"), "SIGUSR2 at step 10")
    at_the_end(run, Attempt("4"), 0, max_requeues=5)
    assert last(run) == ("stopped", "it was job 4, the last of a chain; the same command resumes the run")


def test_run_before_must_be_finished(tmp_path: Path, queue: Queue) -> None:
    rcp, run = tmp_path / "rcp", tmp_path / "propose"
    rcp.mkdir()
    submit(run, "x", ["1", "2"], after=[rcp])
    assert not begin(run, "1")
    assert last(run) == ("failed", f"{rcp} is not finished; repeat the command of the pipeline")
    (rcp / "DONE").write_text("{}")
    assert begin(run, "1")


def test_only_the_first_task_of_an_array_counts(run: Path, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "0")
    for task in ("1", "0", "2"):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
        assert begin(run, f"1_{task}")
    assert [event["job"] for event in History(run).read() if event["event"] == "link"] == ["1_0"]


def test_never_stays_ended(tmp_path: Path, queue: Queue) -> None:
    History(tmp_path).add("submitted", job="1", requeue="never")
    note_interruption(tmp_path, Attempt("1"), "SIGUSR2 at step 10")
    at_the_end(tmp_path, Attempt("1"), 0, max_requeues=5)
    assert last(tmp_path) == ("stopped", "cluster.requeue is never; the same command resumes the run")


def test_no_later_jobs(run: Path, queue: Queue) -> None:
    cancel_later(run, "4")
    cancel_later(run, "99")
    assert queue.commands == []
