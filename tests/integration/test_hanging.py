"""A rank that hangs but is alive: no connection is closed, so only the timeout detects it."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from lmrc.runs.events import History
from lmrc.runs.failures import Attempt, attempt_outcome, note_failure
from lmrc.runs.run_folder import RunFolder
from lmrc.training import distributed
from lmrc.training.distributed import World
from lmrc.training.trainer import train
from tests.integration.test_evaluation_stops import InEvaluation
from tests.training.child import Child
from tests.training.processes import free_port, run_in_processes
from tests.training.test_torn_checkpoints import ActInBatch
from tests.training.test_trainer import OPTIONS
from tests.training.toy import ToyTask

# Long enough for a step on a busy machine.
SECONDS = 15.0
ATTEMPT = Attempt("local-1")


def training(report: Callable[[Any], None], rank: int, port: int, folder: Path, where: str, changes: Any) -> None:
    def stop() -> None:
        report(time.time())
        os.kill(os.getpid(), signal.SIGSTOP)  # as on a node that swaps

    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    world = distributed.init_process_group(timedelta(seconds=SECONDS))
    task: ToyTask = ToyTask()
    if rank == 1:
        task = ActInBatch(3, stop) if where == "step" else InEvaluation(0, 2, stop)
    try:
        train(task, OPTIONS.model_copy(update=changes), 1, RunFolder(folder), world)
    except Exception as error:
        note_failure(folder, ATTEMPT, error, rank)
        raise SystemExit(1) from None
    finally:
        distributed.destroy_process_group()


def hang(alone: World, folder: Path) -> None:
    import deepspeed  # noqa: F401  (imported once, for all forked children)

    started = []
    for backend, stage, where in (
        *(("torch", 0, "step"), ("torch", 0, "evaluation")),
        *(("deepspeed", 2, "step"), ("deepspeed", 3, "evaluation")),
    ):
        run, port = folder / f"{backend}{stage}-{where}", free_port()
        run.mkdir()
        History(run).add("started", job=ATTEMPT.job, restart=0, hosts="n1,n2")
        changes = {"backend": backend, "zero_stage": stage}
        started.append((run, [Child(training, rank, port, run, where, changes) for rank in range(2)]))
    try:
        for run, (first, second) in started:
            assert first.end(120.0)[0] == 1, run.name
            end = attempt_outcome(run, ATTEMPT)
            assert end.lost_peer
            noticed = f"rank 0 on {socket.gethostname()} noticed"
            assert end.cause == f"rank 1 on n2 went silent (killed, or its node is gone), as {noticed}"
            # If the rank continues later, it fails because its peer is gone.
            second.signal(signal.SIGCONT)
            status, (stopped,) = second.end()
            assert status == 1
            failure = json.loads((run / "log" / "failures" / "local-1-0-00000.json").read_text())
            assert failure["rank"] == 0 and SECONDS - 2 < failure["time"] - stopped < 3 * SECONDS, run.name
    finally:
        for _, (_, second) in started:
            second.signal(signal.SIGKILL)


def test_the_other_rank_ends_in_time_and_names_the_hanging_one(tmp_path: Path) -> None:
    run_in_processes(1, hang, tmp_path)
