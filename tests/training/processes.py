"""Run a function in several gloo processes, for tests."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing as mp

from lmrc.training import distributed

# A server imports these once and forks all processes. Each of them would take seconds to import them.
PRELOADED = [
    *("lmrc.launcher.stages", "lmrc.training.backends.deepspeed_zero", "lmrc.rcp.task", "lmrc.rc.task"),
    *("torch._dynamo", "transformers.models.bert.modeling_bert", "transformers.models.llama.modeling_llama"),
]


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _worker(
    rank: int,
    size: int,
    port: int,
    environment: dict[str, str],
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    # It was forked with the environment of the server.
    os.environ.clear()
    os.environ.update(
        environment,
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    try:
        function(distributed.init_process_group(), *arguments)
    finally:
        distributed.destroy_process_group()
    distributed.skip_teardown_at_exit()


def run_in_processes(size: int, function: Callable[..., Any], *arguments: Any) -> None:
    """Call `function(world, *arguments)` in `size` new processes. Raise the exception of any of them here."""
    multiprocessing.set_forkserver_preload(PRELOADED)
    given = (size, free_port(), dict(os.environ), function, arguments)
    mp.start_processes(_worker, args=given, nprocs=size, start_method="forkserver")
