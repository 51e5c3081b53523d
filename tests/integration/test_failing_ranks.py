"""A rank that fails while the other one waits in a collective that never returns, as under NCCL.

The process group is gloo's, wrapped so that a collective with a lost peer blocks instead of raising an exception, and
so that the destruction of the group waits for the other rank.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import pytest
import torch
import torch._dynamo  # imported once, for all forked children: it takes seconds
import torch.distributed as dist

from lmrc.config.schema import ClusterOptions, RcpConfig, RunOptions
from lmrc.launcher.run_stage import run_attempt
from lmrc.launcher.stages import Stage
from lmrc.runs.failures import Attempt, AttemptOutcome, attempt_outcome
from lmrc.runs.run_folder import RunFolder
from lmrc.training.distributed import World
from lmrc.training.trainer import train
from tests.training.child import Child
from tests.training.processes import free_port, run_in_processes
from tests.training.test_torn_checkpoints import ActInBatch
from tests.training.test_trainer import OPTIONS
from tests.training.toy import ToyTask

ATTEMPT = Attempt("local-1")
HOST = socket.gethostname()
# Longer than a step on a busy machine.
TIMEOUT = 6.0
# A rank looks for the failure of another one every 2 seconds.
PROMPT = 5.0


def block_like_nccl() -> None:
    def blocking(collective: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            try:
                return collective(*arguments, **named)
            except RuntimeError:
                while True:
                    time.sleep(1.0)

        return call

    def destroy(*arguments: Any) -> None:
        barrier()
        destroy_group(*arguments)

    destroy_group, barrier = dist.destroy_process_group, blocking(dist.barrier)
    for name in ("all_reduce", "all_gather_object", "barrier"):
        setattr(dist, name, blocking(getattr(dist, name)))
    dist.destroy_process_group = destroy


def rank_of_training(
    report: Callable[[Any], None], rank: int, port: int, folder: Path, act: Callable[[], None], at_the_end: bool
) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    os.environ["TORCH_FR_BUFFER_SIZE"] = "100"
    stderr: TextIO = (folder / f"stderr-{rank}").open("w")
    sys.stderr = stderr
    block_like_nccl()

    def fail() -> None:
        report(time.time())
        act()

    def run(config: RcpConfig, world: World) -> dict[str, Any]:
        task = ToyTask() if rank == 0 or at_the_end else ActInBatch(3, fail)
        result = train(task, OPTIONS, 1, RunFolder(folder), world)
        if rank == 1 and at_the_end:
            fail()
        return result

    stage = Stage("rcp", RcpConfig, lambda config: None, train=run)
    config = RcpConfig(
        run=RunOptions(folder=folder.parent, name=folder.name),
        cluster=ClusterOptions(collective_timeout_minutes=TIMEOUT / 60),
    )
    report(run_attempt(stage, config, ATTEMPT, rank))


def run_both(folder: Path, act: Callable[[], None], at_the_end: bool = False) -> tuple[AttemptOutcome, float, int, int]:
    """Return the outcome, the seconds until rank 0 had ended, and the exit statuses of both ranks."""
    run = folder / "run"
    run.mkdir()
    # A fork of this process could not compute gradients if it has done so before.
    run_in_processes(1, fork_both, folder, act, at_the_end)
    seconds, status, other = json.loads((folder / "ended").read_text())
    return attempt_outcome(run, ATTEMPT), seconds, status, other


def fork_both(alone: World, folder: Path, act: Callable[[], None], at_the_end: bool) -> None:
    run, port = folder / "run", free_port()
    first, second = (Child(rank_of_training, rank, port, run, act, at_the_end) for rank in range(2))
    try:
        status = first.end()[0]
        ended = time.time()
    finally:
        second.signal(signal.SIGCONT)
        if act is suspend:
            second.kill()
    other, (failed, *_) = second.end()
    (folder / "ended").write_text(json.dumps([ended - failed, status, other]))


def collectives(folder: Path, rank: int) -> list[str]:
    record = pickle.loads((folder / "run" / "log" / "failures" / f"local-1-0-collectives-{rank}").read_bytes())
    return [entry["profiling_name"] for entry in record["entries"]]


def stacks(folder: Path, rank: int) -> str:
    report = json.loads((folder / "run" / "log" / "failures" / f"local-1-0-0000{rank}.json").read_text())
    return (folder / "run" / "log" / "failures" / str(report["stacks"])).read_text()


def raise_key_error() -> None:
    raise KeyError("relation")


def run_out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def break_gpu() -> None:
    raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def suspend() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.parametrize(
    ("act", "cause", "broken_nodes"),
    [
        (raise_key_error, "KeyError: 'relation'", ()),
        (run_out_of_memory, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", ()),
        (break_gpu, "torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered", (HOST,)),
    ],
)
def test_an_error_is_reported_at_once_and_ends_both_ranks(
    tmp_path: Path, act: Callable[[], None], cause: str, broken_nodes: tuple[str, ...]
) -> None:
    outcome, seconds, status, other = run_both(tmp_path, act)
    assert outcome == AttemptOutcome(f"rank 1 on {HOST}: {cause}", broken_nodes=broken_nodes)
    assert (status, other) == (1, 1)
    assert seconds < PROMPT
    # The traceback is in the log of its rank, and the waiting rank names the one that failed.
    assert "Traceback" in (tmp_path / "run" / "stderr-1").read_text()
    assert cause in (tmp_path / "run" / "stderr-1").read_text()
    assert f"because another rank failed: rank 1 on {HOST}: {cause}" in (tmp_path / "run" / "stderr-0").read_text()
    assert act.__name__ in stacks(tmp_path, 1)
    assert "in call\n" in stacks(tmp_path, 0)  # the main thread, in the collective that blocks
    for rank in range(2):
        assert "gloo:all_reduce" in collectives(tmp_path, rank)


@pytest.mark.parametrize("act", [kill, suspend])
def test_a_silent_rank_ends_the_other_one_in_time(tmp_path: Path, act: Callable[[], None]) -> None:
    run = tmp_path / "run"
    outcome, seconds, status, other = run_both(tmp_path, act)
    noticed = f"went silent (killed, or its node is gone), as rank 0 on {HOST} noticed"
    assert outcome == AttemptOutcome(f"rank 1 on {HOST} {noticed}", lost_peer=True)
    assert (status, other) == (1, -signal.SIGKILL)
    assert TIMEOUT - 2 < seconds < TIMEOUT + PROMPT
    assert "no progress for 0.1 minutes in: " in (run / "stderr-0").read_text()
    assert "in call\n" in stacks(tmp_path, 0)


def test_a_hanging_destruction_keeps_the_result(tmp_path: Path) -> None:
    _, seconds, status, other = run_both(tmp_path, kill, at_the_end=True)
    assert (status, other) == (1, -signal.SIGKILL)
    assert TIMEOUT - 2 < seconds < TIMEOUT + PROMPT
    assert "in: the end of the process group" in (tmp_path / "run" / "stderr-0").read_text()
    result = RunFolder(tmp_path / "run").result()
    assert result is not None and result["steps"] == 9
