"""Checks of a training that is killed, or stopped by a signal, and resumes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu.check import Machine, require
from gpu.models import RcpTask, encoder, plain_options, small_encoder, train_steps
from torch import nn

from lmrc.runs.run_folder import RunFolder
from lmrc.runs.signals import Preempted
from lmrc.training.backends.base import trained_parameters
from lmrc.training.backends.torch_ddp import TorchDdpBackend
from lmrc.training.checkpoint import Checkpoints, Progress
from lmrc.training.distributed import World
from lmrc.training.task import Batch, to_device
from lmrc.training.trainer import train

LENGTHS = (60, 70, 80, 90, 100, 110, 120, 130)
# Two steps per epoch, with an evaluation after each epoch.
STEPS, KILLED_AT = 6, 5
LOSS_ERROR = 1e-3


class InterruptedTask(RcpTask):
    """A task that acts in the batch of a step, or in an evaluation."""

    def __init__(self, machine: Machine, act: Callable[[], None], in_batch: int = 0, in_evaluation: int = 0) -> None:
        super().__init__(small_encoder(), LENGTHS, 6)
        self._act = act
        self._left = {"batch": in_batch, "evaluation": in_evaluation}

    def _count(self, kind: str) -> None:
        self._left[kind] -= 1
        if self._left[kind] == 0:
            self._act()

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """See `Task`."""
        if model.training:
            self._count("batch")
        return super().loss(model, batch)

    def evaluate(self, model: nn.Module, world: World) -> dict[str, float]:
        """See `Task`."""
        self._count("evaluation")
        return super().evaluate(model, world)


def _nothing() -> None:
    """Do nothing."""


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _send_signal() -> None:
    os.kill(os.getpid(), signal.SIGUSR2)


def _train(machine: Machine, folder: Path, task: InterruptedTask | None = None) -> dict[str, Any]:
    """Train in a run folder, or resume it."""
    folder.mkdir(exist_ok=True)
    options = plain_options(
        machine,
        epochs=STEPS // 2,
        batch_size=4,
        micro_batch_size=4,
        eval_every=0,
        warmup=0,
        # At every step.
        checkpoint_minutes=1e-9,
    )
    return train(task or InterruptedTask(machine, _nothing), options, 1, RunFolder(folder), machine.world)


def _rows(folder: Path) -> list[tuple[int, list[int], float]]:
    """Return step, examples and loss of each step."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row["examples"], row["loss"]) for row in rows if "examples" in row]


def _compare(folder: Path, reference: Path) -> float:
    """Return the largest relative difference of a loss. Steps and examples must be the same."""
    actual, expected = _rows(folder), _rows(reference)
    require([row[:2] for row in actual] == [row[:2] for row in expected], "other steps or examples after the resume")
    require(len(actual) == STEPS, f"{len(actual)} steps, not {STEPS}")
    worst = max(abs(a[2] - b[2]) / abs(b[2]) for a, b in zip(actual, expected, strict=True))
    require(worst < LOSS_ERROR, f"a loss after the resume is off by {worst:.1e}")
    return worst


def resume(machine: Machine) -> str:
    """Kill a training by SIGKILL in a process of its own, resume it here, and time a checkpoint of RCP's size."""
    killed, reference = machine.folder / "killed", machine.folder / "reference"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    code = "import sys; from gpu.resume import train_until_killed; train_until_killed(sys.argv[1], sys.argv[2])"
    command = [sys.executable, "-c", code, machine.device.type, str(killed)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    require(ended.returncode == -signal.SIGKILL, f"the training was not killed: {ended.stderr.strip()[-300:]}")
    checkpoints = list((killed / "checkpoints").glob("step-*"))
    require(bool(checkpoints), "the killed training has no checkpoint")
    _train(machine, killed)
    _train(machine, reference)
    worst = _compare(killed, reference)
    return f"killed in step {KILLED_AT}, resumed: losses off by {worst:.1e}; {_checkpoint_times(machine)}"


def train_until_killed(device: str, folder: str) -> None:
    """Train in this process, which is killed in a step."""
    machine = Machine(torch.device(device), tiny=device == "cpu", folder=Path(folder).parent)
    _train(machine, Path(folder), InterruptedTask(machine, _kill, in_batch=KILLED_AT))


def _checkpoint_times(machine: Machine) -> str:
    """Return how long a checkpoint of RoBERTa-large stops the training, and how long it is written after that."""
    task = RcpTask(encoder(machine), (60,), 4)
    backend = TorchDdpBackend(task, plain_options(machine), machine.world)
    train_steps(backend, [to_device(task.collate([0]), machine.device)], 1)
    names = list(trained_parameters(task))
    saver = Checkpoints(machine.folder / "checkpoint", backend, names, machine.world, keep=1)
    stall = machine.seconds(lambda: saver.begin(Progress(step=1)))
    start = time.perf_counter()
    saver.finish()
    written = time.perf_counter() - start
    numbers = 3 * sum(parameter.numel() for parameter in trained_parameters(task).values())
    return f"checkpoint of {numbers / 1e6:.0f} M numbers: copied in {stall:.2f} s, written in {written:.2f} s more"


def signals(machine: Machine) -> str:
    """Send USR2 during a step and during an evaluation. The training must save, stop and resume."""
    reference = machine.folder / "reference"
    _train(machine, reference)
    texts = []
    for name, when in (("a step", {"in_batch": 3}), ("an evaluation", {"in_evaluation": 1})):
        folder = machine.folder / name.replace(" ", "-")
        try:
            _train(machine, folder, InterruptedTask(machine, _send_signal, **when))
        except Preempted as error:
            require("SIGUSR2" in str(error) and "saved" in str(error), f"in {name}: {error}")
        else:
            require(False, f"in {name} the signal did not stop the training")
        require(bool(list((folder / "checkpoints").glob("step-*"))), f"in {name} nothing was saved")
        _train(machine, folder)
        texts.append(f"in {name}: saved and resumed, losses off by {_compare(folder, reference):.1e}")
    return "; ".join(texts)
