"""Plain torch and every ZeRO stage, in one and in two processes, give the same losses and weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lmrc.config.schema import Training
from lmrc.runs.run_folder import RunFolder
from lmrc.training.distributed import ALONE, World
from lmrc.training.trainer import train
from tests.training.processes import run_in_processes
from tests.training.toy import ToyTask

OPTIONS = Training(
    epochs=4,
    batch_size=4,
    micro_batch_size=2,
    precision="fp32",
    eval_every=2,
    metric="loss",
    warmup=2,
    adam_epsilon=1e-6,
)
BACKENDS: list[tuple[str, dict[str, Any]]] = [
    ("torch", {"backend": "torch"}),
    *((f"zero{stage}", {"backend": "deepspeed", "zero_stage": stage}) for stage in range(4)),
]


def reference() -> tuple[list[float], dict[str, torch.Tensor]]:
    """Return losses and weights of a plain training loop with torch's own schedule and clipping."""
    from torch.nn.utils import clip_grad_norm_

    from lmrc.training.sampler import DeterministicSampler

    task = ToyTask()
    optimizer = torch.optim.AdamW(task.parameter_groups(), eps=1e-6, weight_decay=0.0)
    steps = 12
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: step / 2 if step < 2 else (steps - step) / (steps - 2)
    )
    order, losses = DeterministicSampler(10, 4, 1, "toy"), []
    for step in range(steps):
        batch = order.batch(step)
        rows = [task.loss(task.model, task.collate([index])) for index in batch]
        loss = torch.stack(rows).sum() / sum(len(task.inputs[index]) for index in batch)
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_([p for p in task.model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses, {name: p.detach() for name, p in task.model.named_parameters() if p.requires_grad}


def run_all(world: World, folder: Path, names: list[str], changes: dict[str, Any]) -> None:
    for name in names:
        options = OPTIONS.model_copy(update={**dict(BACKENDS)[name], **changes})
        path = folder / name
        path.mkdir(parents=True, exist_ok=True)
        train(ToyTask(), options, 1, RunFolder(path), world)


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def batches(run: Path) -> list[tuple[int, list[int]]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["examples"]) for row in rows if "loss" in row]


@pytest.mark.parametrize("size", [1, 2])
def test_every_backend_equals_the_reference(tmp_path: Path, size: int) -> None:
    names = [name for name, _ in BACKENDS]
    run_in_processes(size, run_all, tmp_path, names, {})
    expected, weights = reference()
    for name in names:
        assert losses(tmp_path / name) == pytest.approx(expected, rel=1e-5), name
        exported = load_file(tmp_path / name / "best" / "weights.safetensors")
        assert exported.keys() == weights.keys()
        for key, value in weights.items():
            torch.testing.assert_close(exported[key], value, rtol=1e-4, atol=1e-5, msg=f"{name} {key}")


def resume_elsewhere(world: World, folder: Path, stage: int) -> None:
    """Resume with this ZeRO stage."""
    options = OPTIONS.model_copy(update={"backend": "deepspeed", "zero_stage": stage})
    train(ToyTask(), options, 1, RunFolder(folder), world)


def test_resume_on_other_processes_and_stages(tmp_path: Path) -> None:
    """4 → 2 → 1 → 4 processes and ZeRO 2 → 0 → 1 → 3 give the batches and losses of the uninterrupted run."""
    expected, weights = reference()
    run, whole = tmp_path / "elastic", tmp_path / "whole"
    whole.mkdir()
    train(ToyTask(), OPTIONS.model_copy(update={"backend": "torch"}), 1, RunFolder(whole), ALONE)
    # Not stopped by max_steps, which would change the learning rates.
    run_in_processes(4, stop_at, run, 2, 3)
    run_in_processes(2, stop_at, run, 0, 6)
    run_in_processes(1, stop_at, run, 1, 9)
    run_in_processes(4, resume_elsewhere, run, 3)
    assert batches(run) == batches(whole)
    assert losses(run) == pytest.approx(expected, rel=1e-4)
    for key, value in load_file(run / "best" / "weights.safetensors").items():
        torch.testing.assert_close(value, weights[key], rtol=1e-3, atol=1e-5)


def stop_at(world: World, folder: Path, stage: int, step: int) -> None:
    from lmrc.runs.signals import Preempted
    from lmrc.training.trainer import Trainer

    options = OPTIONS.model_copy(update={"backend": "deepspeed", "zero_stage": stage})
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(ToyTask(), options, 1, RunFolder(folder), world)
    agree = trainer._agree

    def at_step(stop: Any, values: Any = (), is_epoch_end: bool = False) -> Any:
        # A step has values, and is not counted yet.
        is_here = bool(values) and trainer._progress.step + 1 == step
        return replace(agree(stop, values, is_epoch_end), signal="SIGUSR2" if is_here else "")

    trainer._agree = at_step  # type: ignore[method-assign]
    with pytest.raises(Preempted, match=f"step {step}/12"):
        trainer.run()
