from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lmrc.common.errors import ConfigError, RunError
from lmrc.config.schema import Training
from lmrc.runs.run_folder import RunFolder
from lmrc.runs.signals import Preempted
from lmrc.training import trainer
from lmrc.training.checkpoint import Checkpoints, Progress
from lmrc.training.distributed import ALONE, World
from lmrc.training.task import Batch
from lmrc.training.trainer import rate_scale, total_steps, train
from tests.training.toy import ToyTask

OPTIONS = Training(
    epochs=3, batch_size=4, micro_batch_size=4, precision="fp32", eval_every=2, metric="loss", backend="torch"
)


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def go(folder: Path, task: ToyTask, **changes: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return train(task, OPTIONS.model_copy(update=changes), 1, RunFolder(folder), ALONE)


def test_learning_rates_equal_those_of_transformers() -> None:
    from transformers import get_linear_schedule_with_warmup

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_linear_schedule_with_warmup(optimizer, 3, 11)
    for step in range(11):
        assert rate_scale(step, total=11, warmup=3) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


def test_total_steps() -> None:
    assert total_steps(10, OPTIONS) == 9  # 3 epochs of 4, 4 and 2 examples
    assert total_steps(10, OPTIONS.model_copy(update={"max_steps": 5})) == 5


def test_metrics_have_each_step_once_and_the_due_evaluations(tmp_path: Path) -> None:
    result = go(tmp_path, ToyTask())
    rows = lines(tmp_path)
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 10))
    # Every 2 steps, after each epoch of 3, and at the end.
    assert [row["step"] for row in rows if "dev_loss" in row] == [2, 3, 4, 6, 8, 9]
    assert sum(row["documents"] for row in rows if "loss" in row) == 30
    best = min((row["dev_loss"], row["step"]) for row in rows if "dev_loss" in row)
    assert (result["best"], result["best_step"]) == best
    assert list((tmp_path / "tensorboard").iterdir())


def test_best_weights_have_the_best_score(tmp_path: Path) -> None:
    task = ToyTask()
    go(tmp_path, task, learning_rate=0.5)
    best = load_file(tmp_path / "best" / "weights.safetensors")
    fresh = ToyTask()
    fresh.model.load_state_dict(best, strict=False)
    lowest = min(row["dev_loss"] for row in lines(tmp_path) if "dev_loss" in row)
    assert fresh.evaluate(fresh.model, ALONE)["loss"] == pytest.approx(lowest, rel=1e-6)


def weights_of(folder: Path) -> dict[str, list[float]]:
    return {name: value.tolist() for name, value in load_file(folder / "best" / "weights.safetensors").items()}


def test_last_weights_are_those_of_the_last_step(tmp_path: Path) -> None:
    """The metric is constant, so only the first evaluation is the best. A patience does not end such a training."""
    task = ToyTask()
    result = go(tmp_path / "last", task, keep="last", metric="constant", patience=1)
    assert result == {"metric": "constant", "best": 1.0, "best_step": 9, "steps": 9}
    assert json.loads((tmp_path / "last" / "best" / "best.json").read_text()) == {"step": 9, "score": 1.0}
    trained = {name: value.tolist() for name, value in task.model.named_parameters() if value.requires_grad}
    assert weights_of(tmp_path / "last") == trained
    assert go(tmp_path / "best", ToyTask(), metric="constant")["best_step"] == 2
    assert weights_of(tmp_path / "best") != trained


class Stopping(ToyTask):
    """A task that sends its process a signal while it collates its n-th batch."""

    def __init__(self, batch: int, signal_number: signal.Signals, **options: Any) -> None:
        super().__init__(**options)
        self._left, self._signal = batch, signal_number

    def collate(self, indices: Sequence[int]) -> Batch:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), self._signal)
        return super().collate(indices)


@pytest.mark.parametrize(
    ("signal_number", "keep"),
    [(signal.SIGTERM, "best"), (signal.SIGUSR2, "best"), (signal.SIGINT, "best"), (signal.SIGTERM, "last")],
)
def test_stopped_and_resumed_is_bit_identical(tmp_path: Path, signal_number: signal.Signals, keep: str) -> None:
    """With dropout, whose random state is a function of seed and step."""
    expected = go(tmp_path / "whole", ToyTask(dropout=0.3), keep=keep)
    with pytest.raises(Preempted, match=r"step 5/9: saved; the same command resumes"):
        go(tmp_path / "stopped", Stopping(5, signal_number, dropout=0.3), keep=keep)
    assert [row["step"] for row in lines(tmp_path / "stopped") if "loss" in row] == [1, 2, 3, 4, 5]
    assert (tmp_path / "stopped" / "best").exists() == (keep == "best")
    assert go(tmp_path / "stopped", ToyTask(dropout=0.3), keep=keep) == expected
    assert expected["steps"] == 9
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert (stopped / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    for name in ("best/weights.safetensors", "checkpoints/step-000009/state-00000.safetensors"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()


def test_resume_from_an_earlier_checkpoint_drops_later_metrics(tmp_path: Path) -> None:
    go(tmp_path, ToyTask())
    whole = (tmp_path / "metrics.jsonl").read_text()
    # As after a kill: the last checkpoint is incomplete, and metrics of later steps and half a line are written.
    (tmp_path / "checkpoints" / "step-000009" / "manifest.json").unlink()
    (tmp_path / "metrics.jsonl").write_text(whole + '{"step": 10, "lo')
    go(tmp_path, ToyTask())
    assert (tmp_path / "metrics.jsonl").read_text() == whole


def checkpoints_of(monkeypatch: pytest.MonkeyPatch, folder: Path, minutes_per_step: float) -> list[int]:
    """Return the steps with a checkpoint, if they take so long and checkpoints are 10 minutes apart."""
    saved: list[int] = []
    begin = Checkpoints.begin

    def noted(self: Checkpoints, progress: Progress) -> None:
        saved.append(progress.step)
        begin(self, progress)

    class Slow(ToyTask):
        minutes = 0.0

        def collate(self, indices: Sequence[int]) -> Batch:
            Slow.minutes += minutes_per_step
            return super().collate(indices)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "begin", noted)
        patch.setattr(trainer.time, "monotonic", lambda: 60 * Slow.minutes)
        go(folder, Slow(), max_steps=8)
    return saved


def test_an_epoch_ends_with_a_checkpoint_if_a_quarter_of_the_time_has_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Epochs end at steps 3 and 6, and the training at step 8, within an epoch.
    assert checkpoints_of(monkeypatch, tmp_path / "short", 0.1) == [8]
    assert checkpoints_of(monkeypatch, tmp_path / "middle", 0.5) == [6, 8]
    assert checkpoints_of(monkeypatch, tmp_path / "long", 1.0) == [3, 6, 8]
    # After 10 minutes within an epoch too.
    assert checkpoints_of(monkeypatch, tmp_path / "longest", 6.0) == [2, 3, 5, 6, 8]


def test_early_stopping(tmp_path: Path) -> None:
    result = go(tmp_path, ToyTask(), metric="constant", patience=2, eval_every=1)
    # The metric is constant, so only the first evaluation is the best.
    assert (result["best_step"], result["steps"]) == (1, 3)


def test_gradient_accumulation_gives_the_same_losses(tmp_path: Path) -> None:
    go(tmp_path / "one", ToyTask())
    task = ToyTask()
    go(tmp_path / "many", task, micro_batch_size=1)
    assert {len(indices) for indices in task.seen} == {1}
    for first, second in zip(lines(tmp_path / "one"), lines(tmp_path / "many"), strict=True):
        key = "loss" if "loss" in first else "dev_loss"
        assert first[key] == pytest.approx(second[key], rel=1e-5)


def test_trained_weights_are_float32_in_bf16(tmp_path: Path) -> None:
    task = ToyTask(frozen=torch.bfloat16)
    seen: list[torch.dtype] = []
    task.model.second.register_forward_hook(lambda module, given, output: seen.append(output.dtype))
    go(tmp_path, task, precision="bf16")
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in task.model.parameters() if p.requires_grad} == {torch.float32}


def test_all_modules_are_in_training_mode_in_every_step(tmp_path: Path) -> None:
    """Also a pretrained part, which is loaded in eval mode, and after evaluations."""
    task = ToyTask(dropout=0.3)
    task.model.dropout.eval()
    modes: list[bool] = []
    task.model.dropout.register_forward_hook(lambda module, given, output: modes.append(module.training))
    go(tmp_path, task)
    evaluations = len([row for row in lines(tmp_path) if "dev_loss" in row])
    assert modes.count(True) == 9 and modes.count(False) == evaluations * len(task)


class Exploding(ToyTask):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().loss(model, batch) * float("nan")


def test_a_loss_of_nan_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"the loss of step 1 is nan \(examples \[.*\]\): lower train.learning_rate"):
        go(tmp_path, Exploding())


def test_an_unknown_metric_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.metric is 'f2', but the evaluation gives loss, constant"):
        go(tmp_path, ToyTask(), metric="f2")


def test_more_processes_than_examples_per_step_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="step has 4 examples, but there are 8 processes"):
        train(ToyTask(), OPTIONS, 1, RunFolder(tmp_path), World(0, 8, torch.device("cpu")))


def test_a_resume_on_other_data_is_refused(tmp_path: Path) -> None:
    class Other(ToyTask):
        def fingerprint(self) -> str:
            return "other"

    go(tmp_path, ToyTask(), max_steps=2)
    with pytest.raises(RunError, match="trained on other data"):
        go(tmp_path, Other())


def test_training_mode_is_set_only_after_evaluations(tmp_path: Path) -> None:
    calls: list[str] = []
    modes: list[bool] = []

    class Counting(ToyTask):
        def __init__(self) -> None:
            super().__init__(dropout=0.3)
            train, inner = self.model.train, self.model.dropout

            def count(mode: bool = True) -> nn.Module:
                calls.append("train" if mode else "eval")
                return train(mode)

            self.model.train = count  # type: ignore[method-assign]
            inner.eval()  # as of a pretrained model inside a new one

        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            if torch.is_grad_enabled():
                modes.append(model.dropout.training)  # type: ignore[union-attr]
            return super().loss(model, batch)

    go(tmp_path, Counting(), eval_every=0)  # an evaluation after each epoch of three steps
    assert calls == ["train", *(["eval", "train"] * 3)]
    assert modes == [True] * 9
