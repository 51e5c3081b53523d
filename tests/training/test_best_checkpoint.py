"""best.json always describes the weights beside it, wherever a training is killed and however it is resumed."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lmrc.runs.run_folder import RunFolder
from lmrc.training import checkpoint
from lmrc.training.best_checkpoint import BestCheckpoint, BestRecord
from lmrc.training.distributed import ALONE, World
from lmrc.training.task import Batch
from tests.training.child import Child, die_before
from tests.training.formula import SHAPES, Formula, formula
from tests.training.test_trainer import go, lines
from tests.training.toy import ToyTask


def best(folder: Path, step: int) -> BestCheckpoint:
    class Weights(Formula):
        def weight(self, name: str, copy: bool = True) -> torch.Tensor:
            return self.get(name, "master")

    return BestCheckpoint(RunFolder(folder), ToyTask(), Weights(step), SHAPES, ALONE)  # type: ignore[arg-type]


def recovered(folder: Path) -> BestRecord | None:
    """Recover, check that the weights are those of the recorded step, and return the record."""
    checkpoint = best(folder, 0)
    checkpoint.recover()
    if checkpoint.held is not None:
        weights = load_file(folder / "best" / "weights.safetensors")
        assert weights.keys() == SHAPES.keys()
        for name, value in weights.items():
            assert torch.equal(value, formula(checkpoint.held.step, name, "master"))
    return checkpoint.held


def replace_and_die(report: Any, folder: Path, operation: int) -> None:
    """Replace the weights of step 1 by those of step 2, and die before the n-th operation on files."""
    die_before(operation)
    best(folder, 2).replace(2, 0.9)


def test_killed_before_each_operation_on_files(tmp_path: Path) -> None:
    survivors: list[BestRecord] = []
    missing = 0
    for operation in range(1, 1000):
        folder = tmp_path / str(operation)
        best(folder, 1).replace(1, 0.5)
        status, _ = Child(replace_and_die, folder, operation).end()
        missing += not (folder / "best").exists()
        held = recovered(folder)
        assert held is not None
        survivors.append(held)
        assert [path.name for path in folder.iterdir()] == ["best"]
        if status == 0:
            break
        assert status == -signal.SIGKILL
    # The old weights survive the earlier kills and the new ones the later kills. In between best/ was missing.
    assert survivors == sorted(survivors, key=lambda held: held.step)
    assert set(survivors) == {BestRecord(1, 0.5), BestRecord(2, 0.9)}
    assert len(survivors) > 10 and missing >= 1


def test_a_run_without_best_weights(tmp_path: Path) -> None:
    assert recovered(tmp_path) is None


@pytest.fixture
def immediate_checkpoints(epoch_checkpoints: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Save after each epoch, and publish each checkpoint at the next step, even if the disk is slow."""
    monkeypatch.setattr(checkpoint._BackgroundWrite, "is_written", lambda self: self._thread.join() is None)


class Killed(BaseException):
    """The death of the process: nothing catches it."""


class Scored(ToyTask):
    """A task whose evaluations give these losses, and which dies in its n-th batch."""

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


# Dev losses after each step. Steps 3, 6 and 9 are saved. The kill is in step 5, so a resume repeats steps 4 and 5.
BEFORE = [1.0, 0.9, 0.95, 0.8999]


def die_after_step_4_was_the_best(run: Path, **changes: Any) -> None:
    with pytest.raises(Killed):
        go(run, Scored(BEFORE, killed_at=5), eval_every=1, **changes)
    assert held_in(run) == BestRecord(4, 0.8999)
    assert (run / "checkpoints" / "latest").read_text() == "step-000003\n"


@pytest.mark.usefixtures("immediate_checkpoints")
def test_a_repeated_step_that_is_no_longer_the_best_by_rounding(tmp_path: Path) -> None:
    die_after_step_4_was_the_best(tmp_path)
    weights = (tmp_path / "best" / "weights.safetensors").read_bytes()
    # After the resume, rounding makes step 4 worse than step 2, and step 5 is better than step 2.
    result = go(tmp_path, Scored([0.95, 0.90001, 0.89995, 2.0, 2.0, 2.0, 2.0]), eval_every=1)
    assert (result["best"], result["best_step"], result["steps"]) == (0.8999, 4, 9)
    assert held_in(tmp_path) == BestRecord(4, 0.8999)
    assert (tmp_path / "best" / "weights.safetensors").read_bytes() == weights
    rows = [(row["step"], row["dev_loss"]) for row in lines(tmp_path) if "dev_loss" in row]
    assert rows[2:5] == [(3, 0.95), (4, 0.90001), (5, 0.89995)]


@pytest.mark.usefixtures("immediate_checkpoints")
def test_early_stopping_before_the_step_of_the_best_weights(tmp_path: Path) -> None:
    die_after_step_4_was_the_best(tmp_path, patience=2)
    result = go(tmp_path, Scored([0.95, 0.90001, 0.90002]), eval_every=1, patience=1)
    assert (result["best"], result["best_step"], result["steps"]) == (0.8999, 4, 3)


class DiesInEvaluation(ToyTask):
    """A task that dies in the evaluation of its last step, before or after the weights are exported."""

    def __init__(self, before: bool) -> None:
        super().__init__()
        self._before = before
        self._evaluations = 0

    def evaluate(self, model: nn.Module, world: World) -> dict[str, float]:
        self._evaluations += 1
        if self._before and self._evaluations == 3:
            raise Killed
        return super().evaluate(model, world)

    def export(self, folder: Path, weights: dict[str, Tensor]) -> None:
        super().export(folder, weights)
        if not self._before:
            raise Killed


@pytest.mark.usefixtures("immediate_checkpoints")
@pytest.mark.parametrize("before", [True, False])
def test_a_kill_in_the_last_evaluation_does_not_change_the_last_weights(tmp_path: Path, before: bool) -> None:
    expected = go(tmp_path / "whole", ToyTask(), eval_every=0, keep="last")
    with pytest.raises(Killed):
        go(tmp_path / "run", DiesInEvaluation(before), eval_every=0, keep="last")
    assert not (tmp_path / "run" / "best").exists()
    assert go(tmp_path / "run", ToyTask(), eval_every=0, keep="last") == expected
    for name in ("best/weights.safetensors", "best/best.json", "metrics.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # A further attempt, after the weights were replaced but before the end was recorded.
    assert go(tmp_path / "run", ToyTask(), eval_every=0, keep="last") == expected
    assert held_in(tmp_path / "run") == held_in(tmp_path / "whole")


@pytest.mark.usefixtures("immediate_checkpoints")
def test_a_resume_with_equal_scores_gives_the_same_result(tmp_path: Path) -> None:
    rest = [0.7, 2.0, 0.6, 2.0, 2.0]
    expected = go(tmp_path / "whole", Scored(BEFORE + rest), eval_every=1)
    die_after_step_4_was_the_best(tmp_path / "run")
    assert go(tmp_path / "run", Scored(BEFORE[2:] + rest), eval_every=1) == expected
    assert held_in(tmp_path / "run") == held_in(tmp_path / "whole") == BestRecord(7, 0.6)
