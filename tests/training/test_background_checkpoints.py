"""Checkpoints that are written in the background."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lmrc.runs.signals import Preempted
from lmrc.training import checkpoint
from lmrc.training.backends.base import STATE_KEYS
from lmrc.training.checkpoint import Checkpoints, Progress
from lmrc.training.distributed import ALONE
from tests.training.formula import checkpoints, newest_step
from tests.training.test_checkpoint import NAMES, state, stepped
from tests.training.test_trainer import Stopping, go
from tests.training.toy import ToyTask


@contextmanager
def blocked_writes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """Block the writing of tensors until the event is set."""
    unblock = Event()

    def wait(*arguments: Any) -> None:
        assert unblock.wait(20.0)
        save_file(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", wait)
        yield unblock


def test_later_changes_of_the_state_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = stepped()
    saver = Checkpoints(tmp_path, backend, NAMES, ALONE, 2)
    before = {name: value.clone() for name, value in state(backend).items()}
    progress = Progress(step=1, best=0.5)
    with blocked_writes(monkeypatch) as unblock:
        saver.begin(progress)
        for name in NAMES:  # in place, as an optimizer does
            for key in STATE_KEYS:
                backend.put(name, key, torch.full_like(before[f"{name}/{key}"], 9.0))
        progress.step, progress.best = 2, 0.9
        assert saver.is_begun() and saver.is_writing() and saver.newest() is None
        unblock.set()
        folder = saver.finish()
    assert not saver.is_begun() and not saver.is_writing()
    other = stepped(scale=0.0)
    assert Checkpoints(tmp_path, other, NAMES, ALONE, 2).load(folder) == Progress(step=1, best=0.5)
    after = state(other)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_begin_finishes_the_previous_checkpoint(tmp_path: Path) -> None:
    backend, saver = checkpoints(tmp_path, step=1)
    saver.begin(Progress(step=1))
    backend.set_step(2)
    saver.begin(Progress(step=2))
    assert newest_step(tmp_path) == 1
    saver.finish()
    assert newest_step(tmp_path) == 2


def test_early_stopping_finishes_the_checkpoint(tmp_path: Path) -> None:
    changes = {"metric": "constant", "patience": 2, "eval_every": 1, "batch_size": 2, "checkpoint_minutes": 1e-9}
    result = go(tmp_path, ToyTask(), **changes)
    assert result["steps"] == 3  # within the first epoch of five
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step-000003\n"
    again = go(tmp_path, ToyTask(), **changes)
    assert again == result


@pytest.mark.usefixtures("epoch_checkpoints")
def test_a_signal_during_a_background_write_saves_both_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(tmp_path / "whole", ToyTask(), eval_every=0)
    was_writing = []
    with blocked_writes(monkeypatch) as unblock:

        class Signalled(Stopping):
            def collate(self, indices: Any) -> Any:
                if self._left == 1:
                    was_writing.append(list((tmp_path / "run" / "checkpoints").glob(".step-000003.tmp")))
                    signal.setitimer(signal.ITIMER_REAL, 0.1)
                return super().collate(indices)

        previous = signal.signal(signal.SIGALRM, lambda signal_number, frame: unblock.set())
        try:
            with pytest.raises(Preempted, match="SIGTERM at step 4/9: saved"):
                go(tmp_path / "run", Signalled(4, signal.SIGTERM), eval_every=0)
        finally:
            signal.signal(signal.SIGALRM, previous)
    assert was_writing[0]
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["latest", "step-000003", "step-000004"]
    go(tmp_path / "run", ToyTask(), eval_every=0)
    for name in ("metrics.jsonl", "best/weights.safetensors", "checkpoints/step-000009/state-00000.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
