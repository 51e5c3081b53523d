from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch

from lmrc.common.errors import ConfigError
from lmrc.launcher.slurm import commands as slurm
from lmrc.launcher.slurm.requeue import after_death, requeue
from lmrc.runs.events import History
from lmrc.runs.failures import BROKEN_NODE_STATUS, Attempt, BrokenNode, note_failure
from lmrc.runs.run_folder import RunFolder

ATTEMPT = Attempt("4711")
KILLED = 128 + 9


class Queue:
    """A fake SLURM with one job."""

    def __init__(self) -> None:
        self.state = "RUNNING"
        self.requeued: list[str] = []
        # Commands in their order: requeued jobs, and jobs with excluded nodes.
        self.commands: list[str] = []


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Iterator[Queue]:
    queue = Queue()
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setattr(slurm, "job", lambda identifier: slurm.SlurmJob(identifier, queue.state, "", 0, "n1"))

    def requeue(identifier: str) -> None:
        queue.requeued.append(identifier)
        queue.commands.append(f"requeue {identifier}")

    def exclude(identifier: str, names: Iterable[str]) -> None:
        # SLURM sends SIGTERM to the job's processes before the node can be excluded.
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
        queue.commands.append(f"exclude {','.join(names)} from {identifier}")

    monkeypatch.setattr(slurm, "requeue", requeue)
    monkeypatch.setattr(slurm, "exclude_nodes", exclude)
    handler = signal.getsignal(signal.SIGTERM)
    yield queue
    signal.signal(signal.SIGTERM, handler)


def kinds(folder: Path) -> list[str]:
    return [event["event"] for event in History(folder).read()]


def reach(folder: Path, step: int) -> None:
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / "latest").write_text(f"step-{step:06d}\n")


def test_requeue_up_to_max_requeues(tmp_path: Path, queue: Queue) -> None:
    assert requeue(tmp_path, Attempt("4711", 4), max_requeues=5)
    assert not requeue(tmp_path, Attempt("4711", 5), max_requeues=5)
    assert queue.requeued == ["4711"]
    assert kinds(tmp_path) == ["requeued", "failed"]
    assert "it was requeued 5 times" in History(tmp_path).read()[-1]["cause"]


def test_cancelled_job_is_not_requeued(tmp_path: Path, queue: Queue) -> None:
    queue.state = "CANCELLED"
    assert not requeue(tmp_path, ATTEMPT, max_requeues=5)
    assert (queue.requeued, kinds(tmp_path)) == ([], ["cancelled"])


def test_job_ended_by_slurm_is_not_requeued(tmp_path: Path, queue: Queue) -> None:
    queue.state = "COMPLETING"
    assert not requeue(tmp_path, ATTEMPT, max_requeues=5)
    assert (queue.requeued, kinds(tmp_path)) == ([], [])


def test_requeue_refused_by_the_controller(tmp_path: Path, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(identifier: str) -> None:
        raise slurm.SlurmError("scontrol requeue: Access denied")

    monkeypatch.setattr(slurm, "requeue", refuse)
    assert not requeue(tmp_path, ATTEMPT, max_requeues=5)
    assert History(tmp_path).read()[-1]["cause"] == "not requeued: scontrol requeue: Access denied"


def test_killed_process_is_requeued(tmp_path: Path, queue: Queue) -> None:
    reach(tmp_path, 40)
    assert after_death(tmp_path, ATTEMPT, KILLED, max_requeues=5)
    died = History(tmp_path).read()[0]
    assert (died["event"], died["cause"], died["step"]) == ("died", "a process was killed by signal 9", 40)
    assert queue.requeued == ["4711"]


def test_program_error_is_not_requeued(tmp_path: Path, queue: Queue, caplog: pytest.LogCaptureFixture) -> None:
    # SLURM ends the other ranks with a signal, so the exit status is that of a kill.
    note_failure(tmp_path, ATTEMPT, KeyError("relation"), 0)
    assert not after_death(tmp_path, ATTEMPT, 128 + 15, max_requeues=5)
    assert (queue.requeued, kinds(tmp_path)) == ([], ["failed"])
    assert "KeyError: 'relation'" in History(tmp_path).read()[0]["cause"]
    assert "Not requeued: rank 0 on " in caplog.text  # in the job's log, which --follow shows
    assert not after_death(tmp_path, Attempt("4711", 1), 3, max_requeues=5)
    assert History(tmp_path).read()[-1]["cause"] == "ended with status 3"


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("status", [1, 128 + 9, 128 + 15])
def test_user_error_is_not_requeued(
    rank: int, status: int, tmp_path: Path, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The other ranks report a lost peer first, or are killed by srun and report nothing.
    for other in {1, 2}:
        monkeypatch.setenv("RANK", str(other))
        note_failure(tmp_path, ATTEMPT, RuntimeError("gloo: Connection closed by peer"), other)
    monkeypatch.setenv("RANK", str(rank))
    note_failure(tmp_path, ATTEMPT, ConfigError("no causal LM could be loaded from 'x'"), rank)
    assert not after_death(tmp_path, ATTEMPT, status, max_requeues=5)
    assert (queue.requeued, kinds(tmp_path)) == ([], ["failed"])
    assert History(tmp_path).read()[0]["cause"] == "no causal LM could be loaded from 'x'"


def test_lost_peer_is_requeued(tmp_path: Path, queue: Queue) -> None:
    note_failure(tmp_path, ATTEMPT, RuntimeError("gloo: Connection closed by peer"), 0)
    assert after_death(tmp_path, ATTEMPT, 1, max_requeues=5)


def test_repeated_death_at_one_step_is_not_requeued(tmp_path: Path, queue: Queue) -> None:
    reach(tmp_path, 40)
    assert after_death(tmp_path, Attempt("4711", 0), KILLED, max_requeues=100)
    assert after_death(tmp_path, Attempt("4711", 1), KILLED, max_requeues=100)
    reach(tmp_path, 50)  # progress resets the count
    assert after_death(tmp_path, Attempt("4711", 2), KILLED, max_requeues=100)
    assert after_death(tmp_path, Attempt("4711", 3), KILLED, max_requeues=100)
    assert not after_death(tmp_path, Attempt("4711", 4), KILLED, max_requeues=100)
    assert "it died 3 times without getting beyond 50" in History(tmp_path).read()[-1]["cause"]


def test_job_is_requeued_once(tmp_path: Path, queue: Queue) -> None:
    requeue(tmp_path, ATTEMPT, max_requeues=5)
    assert after_death(tmp_path, ATTEMPT, 128 + 15, max_requeues=5)  # the end requested by rank 0
    assert queue.requeued == ["4711"]
    RunFolder(tmp_path).finish({})
    assert not after_death(tmp_path, Attempt("4711", 1), KILLED, max_requeues=5)
    assert queue.requeued == ["4711"]


def test_no_requeue_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert not requeue(tmp_path, ATTEMPT, max_requeues=5)
    assert "the same command resumes" in History(tmp_path).read()[0]["cause"]


ECC = torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")


@pytest.mark.parametrize("status", [1, KILLED])
def test_hardware_error_is_requeued_without_the_node(
    status: int, tmp_path: Path, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    note_failure(tmp_path, ATTEMPT, ECC, 0)
    assert after_death(tmp_path, ATTEMPT, status, max_requeues=5)
    assert queue.commands == ["requeue 4711", "exclude n7 from 4711"]
    died, requeued = History(tmp_path).read()
    assert (died["event"], requeued["event"], requeued["excluded"]) == ("died", "requeued", "n7")
    assert "uncorrectable ECC" in died["cause"]


def test_job_stays_requeued_if_the_node_cannot_be_excluded(
    tmp_path: Path, queue: Queue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(identifier: str, names: Iterable[str]) -> None:
        raise slurm.SlurmError("scontrol: Access denied")

    monkeypatch.setattr(slurm, "exclude_nodes", refuse)
    note_failure(tmp_path, ATTEMPT, ECC, 0)
    assert after_death(tmp_path, ATTEMPT, 1, max_requeues=5)
    assert queue.requeued == ["4711"]
    assert "could not be excluded from the requeued job 4711: scontrol: Access denied" in caplog.text


def test_out_of_memory_is_not_requeued(tmp_path: Path, queue: Queue) -> None:
    error = torch.distributed.DistBackendError("NCCL error: unhandled cuda error\nCuda failure 2 'out of memory'")
    note_failure(tmp_path, ATTEMPT, error, 0)
    assert not after_death(tmp_path, ATTEMPT, 1, max_requeues=5)
    assert kinds(tmp_path) == ["failed"]


def test_killed_rank_is_named_from_the_message_of_srun(tmp_path: Path, queue: Queue) -> None:
    log = tmp_path / "log" / "4711_0_log.out"
    log.parent.mkdir()
    log.write_text(
        "submitit INFO (2026-01-01) - Starting with JobEnvironment(job_id=4711)\n"
        "srun: error: n9: task 9: Killed\n"
        "submitit INFO (2026-01-02) - Starting with JobEnvironment(job_id=4711)\n"
        "srun: error: n2: task 5: Killed\n"
        "srun: Terminating StepId=4711.0\n"
        "srun: error: n1: tasks 0-3: Aborted (core dumped)\n"
    )
    assert after_death(tmp_path, ATTEMPT, KILLED, max_requeues=5)
    assert History(tmp_path).read()[0]["cause"] == "rank 5 on n2 was killed by signal 9"


def test_node_that_failed_its_check_is_excluded_and_recorded(
    tmp_path: Path, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "n3")
    note_failure(tmp_path, ATTEMPT, BrokenNode("7 of 8 allocated GPUs are usable"), 1)
    assert after_death(tmp_path, ATTEMPT, BROKEN_NODE_STATUS, max_requeues=5)
    assert queue.commands == ["requeue 4711", "exclude n3 from 4711"]
    died = History(tmp_path).read()[0]
    assert died["broken_nodes"] == "n3"
    assert died["cause"].endswith(": node check: 7 of 8 allocated GPUs are usable")


def test_node_without_a_report_is_named_by_srun(tmp_path: Path, queue: Queue) -> None:
    (tmp_path / "log").mkdir()
    log = tmp_path / "log" / "4711_0_log.out"
    log.write_text(
        "Starting with JobEnvironment(1)\nsrun: error: n1: task 0: Exited with exit code 86\n"
        "Starting with JobEnvironment(2)\nsrun: error: n3: tasks 8-9: Exited with exit code 86\n"
    )
    assert after_death(tmp_path, ATTEMPT, BROKEN_NODE_STATUS, max_requeues=5)
    assert queue.commands == ["requeue 4711", "exclude n3 from 4711"]
    assert "rank 8-9 on n3: node check: the node cannot write its report" in History(tmp_path).read()[0]["cause"]
    log.unlink()
    assert not after_death(tmp_path, Attempt("4711", 1), BROKEN_NODE_STATUS, max_requeues=5)
