"""Signals and kills during an evaluation, which may take longer than the job's remaining time."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from lmrc.runs.run_folder import RunFolder
from lmrc.runs.signals import Preempted
from lmrc.training import checkpoint
from lmrc.training.distributed import World
from lmrc.training.trainer import train
from tests.training.child import Child
from tests.training.processes import run_in_processes
from tests.training.test_torn_checkpoints import assert_same
from tests.training.test_trainer import OPTIONS, go, lines
from tests.training.toy import ToyTask

EVALUATED = [2, 3, 4, 6, 8, 9]


class InEvaluation(ToyTask):
    """A task that calls a function in one forward pass of one evaluation (from 0), and counts its passes."""

    def __init__(self, evaluation: int, forward: int, act: Callable[[], None]) -> None:
        super().__init__(dropout=0.3)
        self._left, self._forward, self._act = evaluation, forward, act
        self.forwards = 0

    def evaluate(self, model: nn.Module, world: World) -> dict[str, float]:
        self.forwards = 0

        def count(*_: Any) -> None:
            self.forwards += 1
            if self._left == 0 and self.forwards == self._forward:
                self._act()

        hook = model.register_forward_hook(count)
        try:
            metrics = super().evaluate(model, world)
        finally:
            hook.remove()
        self._left -= 1
        return metrics


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


# Within an epoch, at its end, and at the end of the training.
@pytest.mark.parametrize("step", [2, 3, 4, 9])
@pytest.mark.parametrize("forward", [1, 6])
def test_a_signal_ends_the_evaluation_at_the_next_batch(tmp_path: Path, step: int, forward: int) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    result = go(whole, ToyTask(dropout=0.3))
    stopping = InEvaluation(EVALUATED.index(step), forward, terminate)
    with pytest.raises(Preempted, match=rf"SIGTERM at step {step}/9: saved; the same command resumes from there"):
        go(run, stopping)
    assert stopping.forwards == forward
    assert [row["step"] for row in lines(run) if "dev_loss" in row] == [due for due in EVALUATED if due < step]
    assert (run / "checkpoints" / "latest").read_text() == f"step-{step:06d}\n"
    # A second signal comes in the evaluation right after the resume: the checkpoint exists already.
    saved = (run / "checkpoints" / f"step-{step:06d}" / "manifest.json").stat().st_ino
    again = InEvaluation(0, 3, terminate)
    with pytest.raises(Preempted, match=rf"SIGTERM at step {step}/9"):
        go(run, again)
    assert again.forwards == 3
    assert (run / "checkpoints" / f"step-{step:06d}" / "manifest.json").stat().st_ino == saved
    assert go(run, ToyTask(dropout=0.3)) == result
    assert_same(whole, run)


def test_a_signal_in_the_evaluation_before_the_first_step(tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    go(whole, ToyTask(dropout=0.3), eval_at_start=True)
    with pytest.raises(Preempted, match="SIGTERM at step 0/9"):
        go(run, InEvaluation(0, 4, terminate), eval_at_start=True)
    # As after a kill right after the evaluation: it is in the metrics, but no checkpoint exists.
    (run / "metrics.jsonl").write_text((whole / "metrics.jsonl").read_text().split("\n")[0] + "\n")
    go(run, ToyTask(dropout=0.3), eval_at_start=True)
    assert [row["step"] for row in lines(run) if "dev_loss" in row] == [0, *EVALUATED]
    assert_same(whole, run)


@pytest.mark.usefixtures("epoch_checkpoints")
@pytest.mark.parametrize("step", [3, 9])
def test_killed_in_the_evaluation_after_an_epoch(tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The epoch's checkpoint is published during the evaluation."""
    # At the first forward pass, even if the disk is slow.
    monkeypatch.setattr(checkpoint._BackgroundWrite, "is_written", lambda self: self._thread.join() is None)
    whole, run = tmp_path / "whole", tmp_path / "run"
    go(whole, ToyTask(dropout=0.3))

    def training(report: Callable[[Any], None]) -> None:
        go(run, InEvaluation(EVALUATED.index(step), 5, lambda: os.kill(os.getpid(), signal.SIGKILL)))

    status, _ = Child(training).end()
    assert status == -signal.SIGKILL
    first = []

    class Fresh(ToyTask):
        def collate(self, indices: Any) -> Any:
            first.append(list(indices))
            return super().collate(indices)

    go(run, Fresh(dropout=0.3))
    assert len(first) == 1 + 9 - step  # a step with learning rate 0 creates Adam's state
    assert_same(whole, run)


def signal_rank_1(world: World, folder: Path) -> None:
    """Send the signal only to rank 1, in its second forward pass of five."""

    def act() -> None:
        if world.rank == 1:
            terminate()

    for backend, stage in (("torch", 0), ("deepspeed", 3)):
        options = OPTIONS.model_copy(update={"backend": backend, "zero_stage": stage})
        whole, run = (folder / f"{backend}-{kind}" for kind in ("whole", "run"))
        for path in (whole, run):
            path.mkdir(exist_ok=True)
        train(ToyTask(dropout=0.3), options, 1, RunFolder(whole), world)
        stopping = InEvaluation(1, 2, act)
        with pytest.raises(Preempted, match="SIGTERM at step 3/9"):
            train(stopping, options, 1, RunFolder(run), world)
        assert stopping.forwards == 2
        train(ToyTask(dropout=0.3), options, 1, RunFolder(run), world)
        if world.is_first:
            assert_same(whole, run)


def test_all_ranks_stop_at_the_same_batch(tmp_path: Path) -> None:
    run_in_processes(2, signal_rank_1, tmp_path)
