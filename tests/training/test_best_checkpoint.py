"""The best weights and what is said of them belong together, wherever a training is killed and however it goes on."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lmrc.runs.run_folder import RunFolder
from lmrc.training import checkpoint
from lmrc.training.best_checkpoint import BestCheckpoint, BestRecord
from lmrc.training.distributed import ALONE, World
from lmrc.training.task import Batch
from tests.training.formula import SHAPES, Formula, formula
from tests.training.test_trainer import go, lines
from tests.training.toy import ToyTask
from tests.training.trouble import Child, die_before


def best(folder: Path, step: int) -> BestCheckpoint:
    class Weights(Formula):
        def weight(self, name: str) -> torch.Tensor:
            return self.get(name, "master")

    return BestCheckpoint(RunFolder(folder), ToyTask(), Weights(step), SHAPES, ALONE)  # type: ignore[arg-type]


def recovered(folder: Path) -> BestRecord | None:
    """What is held after a recovery; its weights are those of its step."""
    found = best(folder, 0)
    found.recover()
    if found.held is not None:
        weights = load_file(folder / "best" / "weights.safetensors")
        assert weights.keys() == SHAPES.keys()
        for name, value in weights.items():
            assert torch.equal(value, formula(found.held.step, name, "master"))
    return found.held


def replace_and_die(report: Any, folder: Path, operation: int) -> None:
    """Put step 2 into the place of step 1, and be killed before the given operation on files."""
    die_before(operation)
    best(folder, 2).replace(2, 0.9)


def test_killed_before_each_operation_on_files(tmp_path: Path) -> None:
    survivors: list[BestRecord] = []
    out_of_place = 0
    for operation in range(1, 1000):
        folder = tmp_path / str(operation)
        best(folder, 1).replace(1, 0.5)
        status, _ = Child(replace_and_die, folder, operation).end()
        out_of_place += not (folder / "best").exists()
        held = recovered(folder)
        assert held is not None
        survivors.append(held)
        assert [path.name for path in folder.iterdir()] == ["best"]
        if status == 0:
            break
        assert status == -signal.SIGKILL
    # First always the previous one, then always the new one; in between none was in its place.
    assert survivors == sorted(survivors, key=lambda held: held.step)
    assert set(survivors) == {BestRecord(1, 0.5), BestRecord(2, 0.9)}
    assert len(survivors) > 10 and out_of_place >= 1


def test_a_run_without_any(tmp_path: Path) -> None:
    assert recovered(tmp_path) is None


@pytest.fixture
def patient_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Published at the first boundary after their beginning, however slow the disk is."""
    monkeypatch.setattr(checkpoint._BackgroundWrite, "is_written", lambda self: self._thread.join() is None)


class Killed(BaseException):
    """Nobody catches it."""


class Scored(ToyTask):
    """Its evaluations give these losses; killed in the batch of one step."""

    def __init__(self, losses: Sequence[float], killed_at: int = 0) -> None:
        super().__init__()
        self._losses, self._left = iter(losses), killed_at

    def evaluate(self, model: nn.Module, world: World) -> dict[str, float]:
        return {"loss": next(self._losses)}

    def collate(self, indices: Sequence[int]) -> Batch:
        self._left -= 1
        if self._left == 0:
            raise Killed
        return super().collate(indices)


def held_in(run: Path) -> BestRecord:
    return BestRecord(**json.loads((run / "best" / "best.json").read_text()))


# ScoredRun after each step, saved after steps 3, 6 and 9, killed in step 5: the resume makes steps 4 and 5 again.
BEFORE = [1.0, 0.9, 0.95, 0.8999]


def killed_after_step_4_was_the_best(run: Path, **changes: Any) -> None:
    with pytest.raises(Killed):
        go(run, Scored(BEFORE, killed_at=5), eval_every=1, **changes)
    assert held_in(run) == BestRecord(4, 0.8999)
    assert (run / "checkpoints" / "latest").read_text() == "step-000003\n"


@pytest.mark.usefixtures("patient_checkpoints")
def test_a_score_that_rounds_to_none_better_after_a_resume(tmp_path: Path) -> None:
    killed_after_step_4_was_the_best(tmp_path)
    weights = (tmp_path / "best" / "weights.safetensors").read_bytes()
    # On other processes step 4 is a hair worse than step 2, and step 5 better than that one.
    result = go(tmp_path, Scored([0.95, 0.90001, 0.89995, 2.0, 2.0, 2.0, 2.0]), eval_every=1)
    assert (result["best"], result["best_step"], result["steps"]) == (0.8999, 4, 9)
    assert held_in(tmp_path) == BestRecord(4, 0.8999)
    assert (tmp_path / "best" / "weights.safetensors").read_bytes() == weights
    rows = [(row["step"], row["dev_loss"]) for row in lines(tmp_path) if "dev_loss" in row]
    assert rows[2:5] == [(3, 0.95), (4, 0.90001), (5, 0.89995)]


@pytest.mark.usefixtures("patient_checkpoints")
def test_out_of_patience_before_the_step_whose_weights_are_there(tmp_path: Path) -> None:
    killed_after_step_4_was_the_best(tmp_path, patience=2)
    result = go(tmp_path, Scored([0.95, 0.90001, 0.90002]), eval_every=1, patience=1)
    assert (result["best"], result["best_step"], result["steps"]) == (0.8999, 4, 3)


@pytest.mark.usefixtures("patient_checkpoints")
def test_the_same_scores_after_a_resume(tmp_path: Path) -> None:
    rest = [0.7, 2.0, 0.6, 2.0, 2.0]
    expected = go(tmp_path / "whole", Scored(BEFORE + rest), eval_every=1)
    killed_after_step_4_was_the_best(tmp_path / "run")
    assert go(tmp_path / "run", Scored(BEFORE[2:] + rest), eval_every=1) == expected
    assert held_in(tmp_path / "run") == held_in(tmp_path / "whole") == BestRecord(7, 0.6)
