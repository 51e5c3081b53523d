from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.distributed as dist

from lmrc.training.distributed import init_process_group


# A node of 8 GPUs, of which a task sees all, its own or those of its socket.
@pytest.mark.parametrize(("local_rank", "visible", "index"), [(5, 8, 5), (5, 1, 0), (5, 4, 1), (0, 1, 0)])
def test_a_rank_uses_one_of_the_gpus_that_it_sees(
    monkeypatch: pytest.MonkeyPatch, local_rank: int, visible: int, index: int
) -> None:
    chosen: list[torch.device] = []
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(dist, "is_initialized", lambda: False)  # a test of DeepSpeed may have left a group
    monkeypatch.setattr(
        dist, "init_process_group", lambda backend, **named: given.append({"backend": backend, **named})
    )
    for name, value in (("RANK", 13), ("WORLD_SIZE", 16), ("LOCAL_RANK", local_rank)):
        monkeypatch.setenv(name, str(value))
    world = init_process_group()
    assert chosen == [world.device] == [torch.device("cuda", index)]
    assert os.environ["LOCAL_RANK"] == str(index)  # DeepSpeed reads it
    # The group is bound to the GPU, so that it is used for barriers and that new groups need no new connections.
    assert (given[0]["backend"], given[0]["device_id"]) == ("nccl", world.device)


def test_a_rank_that_succeeded_ends_before_the_teardown() -> None:
    """The registered abort stands for a thread of gloo that drops a tensor in the teardown."""
    script = (
        "import atexit, os; atexit.register(os.abort); from lmrc.training import distributed; print('done', end='')"
    )
    words = [sys.executable, "-c"]
    assert subprocess.run([*words, script], capture_output=True).returncode != 0
    skipping = subprocess.run([*words, f"{script}; distributed.skip_teardown_at_exit()"], capture_output=True)
    assert (skipping.returncode, skipping.stdout) == (0, b"done")
