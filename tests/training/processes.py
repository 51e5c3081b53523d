"""Run a function in several gloo processes, for tests."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing as mp

from lmrc.training import distributed


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _worker(rank: int, size: int, port: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    try:
        function(distributed.init_process_group(), *arguments)
    finally:
        distributed.destroy_process_group()
    distributed.skip_teardown_at_exit()


def run_in_processes(size: int, function: Callable[..., Any], *arguments: Any) -> None:
    """Call `function(world, *arguments)` in `size` new processes. Raise the exception of any of them here."""
    mp.start_processes(_worker, args=(size, free_port(), function, arguments), nprocs=size, start_method="spawn")
