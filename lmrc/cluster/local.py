"""Running a stage on this machine: one process a GPU, or gloo processes on the CPU."""

from __future__ import annotations

import os
import signal
import socket
from types import FrameType
from typing import Any

import torch
import torch.multiprocessing as mp
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from lmrc.cluster.stages import STAGES, Stage, StageConfig
from lmrc.engine import distributed
from lmrc.errors import UserError
from lmrc.exits import Interrupted

# After one process has failed, the others get this long to notice by themselves.
SECONDS_TO_FAIL = 30.0


def processes_here(stage: Stage, wanted: int | None) -> tuple[int, str]:
    """How many processes this machine runs for `wanted` GPUs, and the sentence that says so."""
    devices, cores = torch.cuda.device_count(), os.cpu_count() or 1
    kind, most = ("GPU", devices) if devices else ("CPU core", cores)
    if not stage.trains:
        return 1, f"one process on the {kind.split()[0]}"
    # On the CPU a single process uses all cores, so that more of them is a wish, not the default.
    count = min(wanted or (devices or 1), most)
    asked = (
        f" ({wanted} asked for; this machine has {most} {kind}{'s' if most > 1 else ''})"
        if wanted and wanted > most
        else ""
    )
    if devices:
        return count, f"{count} process{'es' if count > 1 else ''}, one a GPU{asked}"
    return count, f"{count} {'gloo processes' if count > 1 else 'process'} on the CPU{asked}"


def run_here(stage: Stage, config: StageConfig, processes: int) -> dict[str, Any]:
    """Run the stage in this process, or in `processes` new ones; returns rank 0's result.

    Raises UserError where one of them did, Interrupted after they saved on a signal, RuntimeError where one died.
    """
    if processes == 1:
        return stage.run(config, distributed.join())
    context = mp.get_context("spawn")
    outcomes = context.SimpleQueue()
    group = start_processes(  # type: ignore[no-untyped-call]
        _worker,
        args=(processes, _free_port(), stage.name, config, outcomes),
        nprocs=processes,
        join=False,
        start_method="spawn",
    )
    previous = {number: signal.signal(number, _Forward(group.pids())) for number in (signal.SIGTERM, signal.SIGUSR2)}
    # A terminal sends Ctrl-C to the processes too: they save, this one waits for them.
    previous[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
    failure: Exception | None = None
    try:
        while not group.join(grace_period=SECONDS_TO_FAIL):
            pass
    except (ProcessRaisedException, ProcessExitedException) as error:
        failure = error
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    # A sentence of a process is worth more than the exit of another that it left alone.
    while not outcomes.empty():
        kind, value = outcomes.get()
        if kind == "result":
            result: dict[str, Any] = value
            if failure is None:
                return result
        else:
            raise (UserError if kind == "mistake" else Interrupted)(value)
    raise RuntimeError(f"a process of {stage.name} died: {failure}") from None


class _Forward:
    def __init__(self, pids: list[int]) -> None:
        self._pids = pids

    def __call__(self, number: int, frame: FrameType | None) -> None:
        for pid in self._pids:
            os.kill(pid, number)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _worker(rank: int, size: int, port: int, name: str, config: StageConfig, outcomes: Any) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // size))
    try:
        result = STAGES[name].run(config, distributed.join())
    except UserError as error:
        outcomes.put(("mistake", str(error)))
        raise
    except Interrupted as error:
        outcomes.put(("interrupted", str(error)))
        return
    else:
        if rank == 0:
            outcomes.put(("result", result))
    finally:
        distributed.leave()
