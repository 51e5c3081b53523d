"""The training loop of both stages. It knows neither: everything of theirs comes through `Task`."""

from __future__ import annotations

import math
import random
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lmrc.config import Training
from lmrc.durable import fsync
from lmrc.engine.backend import autocast, choose_backend, trained_parameters
from lmrc.engine.checkpoint import Checkpoints, Progress
from lmrc.engine.distributed import World
from lmrc.engine.journal import Journal
from lmrc.engine.order import DataOrder, MicroBatches, step_seed
from lmrc.engine.precision import settle
from lmrc.engine.preemption import Preempted, StopRequest, name_of
from lmrc.engine.task import Batch, Task
from lmrc.errors import ConfigError, RunError
from lmrc.run import RunFolder


def seed_everything(seed: int) -> None:
    """Seed what initialises weights; to be called before a task is built."""
    random.seed(seed)
    torch.manual_seed(seed)


def rate_scale(step: int, total: int, warmup: int) -> float:
    """Linear warm-up from 0 and linear decay to 0; `step` counts the steps done before (as in the published code)."""
    if step < warmup:
        return step / max(1, warmup)
    return max(0.0, (total - step) / max(1, total - warmup))


def total_steps(examples: int, options: Training) -> int:
    """Optimizer steps of a whole training."""
    steps = options.epochs * -(-examples // options.batch_size)
    return steps if options.max_steps is None else min(steps, options.max_steps)


class Trainer:
    """One training: resume where the run folder stands, step, evaluate, keep the best, save."""

    def __init__(self, task: Task, options: Training, seed: int, run: RunFolder, world: World) -> None:
        if world.size > options.batch_size:
            raise ConfigError(
                f"train.batch_size is {options.batch_size}, but there are {world.size} processes: every step would "
                f"leave some without an example; use at most {options.batch_size} GPUs, or a larger train.batch_size"
            )
        self._task = task
        self._options = options
        self._seed = seed
        self._run = run
        self._world = world
        self._order = DataOrder(len(task), options.batch_size, seed, task.fingerprint())
        self._plan = MicroBatches.plan(world.rank, world.size, options.batch_size, options.micro_batch_size)
        self._total = total_steps(len(task), options)
        self._warmup = math.ceil(options.warmup * self._total) if options.warmup < 1 else round(options.warmup)
        parameters = trained_parameters(task)
        self._names = list(parameters)
        # Counted now: ZeRO-3 leaves shards behind.
        self._trained = sum(parameter.numel() for parameter in parameters.values())
        self._backend = choose_backend(task, options, world, self._plan.count)
        self._checkpoints = Checkpoints(run.checkpoints, self._backend, self._names, world, options.checkpoint_keep)
        self._precision = settle(options.precision)
        self._progress = Progress(fingerprint=task.fingerprint(), precision=self._precision)
        self._saved_at = time.monotonic()

    def run(self) -> dict[str, Any]:
        """Train to the end, or until a signal asks to stop.

        Returns the result (best score and its step, steps done). Raises Preempted after saving on a signal.
        """
        self._resume()
        journal = None
        if self._world.is_first:
            journal = Journal(self._run.path, self._progress.step, self._total, self._task.unit)
            self._announce(journal)
        try:
            with StopRequest() as stop:
                self._train(journal, stop)
        finally:
            if journal is not None:
                journal.close()
        return {
            "metric": self._options.metric,
            "best": self._progress.best,
            "best_step": self._progress.best_step,
            "steps": self._progress.step,
        }

    def _announce(self, journal: Journal) -> None:
        options = self._options
        journal.say(
            f"{self._backend.name}, {self._world.size} process{'es' if self._world.size > 1 else ''} on "
            f"{self._world.device.type}, {self._precision}: {len(self._task)} examples, {self._total} steps of "
            f"{options.batch_size} ({self._plan.count} x {self._plan.size} a process), "
            f"{self._trained:,} trained parameters"
        )

    def _train(self, journal: Journal | None, stop: StopRequest) -> None:
        progress = self._progress
        if progress.step == 0 and self._options.eval_at_start:
            self._evaluate(journal)
        while progress.step < self._total and not self._out_of_patience():
            self._step(journal)
            last = progress.step == self._total
            ends_epoch = self._order.ends_epoch(progress.step - 1)
            due = self._options.eval_every and progress.step % self._options.eval_every == 0
            if due or ends_epoch or last:
                if self._checkpoints.is_begun():  # an evaluation is long: a kill must not take it
                    self._checkpoints.finish()
                self._evaluate(journal)
            signal, overdue, writing = self._agree(stop)
            if self._checkpoints.is_begun() and not writing:
                self._checkpoints.finish()
            if ends_epoch or last or overdue or signal:
                self._checkpoints.begin(progress)
                self._saved_at = time.monotonic()
            if last or signal:
                self._checkpoints.finish()
            if signal and not last:
                raise Preempted(
                    f"{signal} at step {progress.step}/{self._total}: saved; the same command resumes from there"
                )

        if self._checkpoints.is_begun():  # out of patience
            self._checkpoints.finish()

    def _agree(self, stop: StopRequest) -> tuple[str, bool, bool]:
        """(signal's name or "", a checkpoint is due, one is being written): the same on all ranks, in one exchange."""
        # Clocks differ between ranks: the first one's decides.
        overdue = self._world.is_first and time.monotonic() - self._saved_at > 60 * self._options.checkpoint_minutes
        signal, due, writing = self._world.max([stop.signal, overdue, self._checkpoints.is_writing()])
        return name_of(int(signal)), bool(due), bool(writing)

    def _out_of_patience(self) -> bool:
        patience = self._options.patience
        return patience is not None and self._progress.evaluations_since_best >= patience

    def _global_batch(self, batch: list[int], scale: float) -> tuple[float, float]:
        """Forward, backward and step over one global batch. Returns its mean loss and the gradient's norm."""
        weight = max(1, sum(self._task.weight(index) for index in batch))
        loss_sum = 0.0
        for number, (indices, counts) in enumerate(self._plan.split(batch)):
            torch.manual_seed(step_seed(self._seed, self._progress.step, number, self._world.rank))
            loss = self._backend.loss(_to(self._task.collate(indices), self._world.device)) / weight
            self._backend.backward(loss if counts else loss * 0.0)
            loss_sum += float(loss.detach()) if counts else 0.0
        return self._world.sum([loss_sum])[0], self._backend.step(scale)

    def _step(self, journal: Journal | None) -> None:
        step = self._progress.step
        batch = self._order.batch(step)
        self._backend.model.train()
        scale = rate_scale(step, self._total, self._warmup)
        loss, norm = self._global_batch(batch, scale)
        if not math.isfinite(loss):
            raise RunError(
                f"the loss of step {step + 1} is {loss} (examples {batch}): lower train.learning_rate or use "
                f"train.precision fp32, and start again under another --run name"
            )
        self._progress.step += 1
        if journal is not None:
            units = sum(self._task.size(index) for index in batch)
            journal.train(step + 1, self._order.epoch(step), batch, loss, scale, norm, units)

    @torch.no_grad()
    def _evaluate(self, journal: Journal | None) -> None:
        model = self._backend.model
        model.eval()
        with autocast(self._precision, self._world.device.type):
            metrics = self._task.evaluate(model, self._world)
        metric = self._options.metric
        if metric not in metrics:
            raise ConfigError(
                f"train.metric is {metric!r}, but the evaluation gives {', '.join(metrics)}: name one of these"
            )
        progress, score = self._progress, metrics[metric]
        sign = -1.0 if "loss" in metric else 1.0
        better = progress.best is None or sign * score > sign * progress.best
        if better:
            progress.best, progress.best_step, progress.evaluations_since_best = score, progress.step, 0
            self._export()
        else:
            progress.evaluations_since_best += 1
        if journal is not None:
            journal.dev(progress.step, metrics, metric, better)

    def _export(self) -> None:
        """Replace the best weights. A kill in between leaves old or new ones, and the resume makes them again.

        Raises RunError on all ranks where they cannot be written.
        """
        weights: dict[str, Tensor] = {}
        for name in self._names:
            value = self._backend.weight(name)
            if self._world.is_first:
                weights[name] = value

        def replace() -> None:
            new, old = self._run.path / ".best.new", self._run.path / ".best.old"
            for folder in (new, old):
                shutil.rmtree(folder, ignore_errors=True)
            new.mkdir(parents=True)
            try:
                self._task.export(new, weights)
                # A checkpoint says that they are there: they must outlive a power cut as it does.
                for path in [*new.rglob("*"), new]:
                    fsync(path)
            except Exception:
                shutil.rmtree(new, ignore_errors=True)
                raise
            _swap(new, self._run.best, old)
            fsync(self._run.path)

        problem = f"the best weights could not be written to {self._run.best}"
        self._world.together(lambda: replace() if self._world.is_first else None, problem)

    def _resume(self) -> None:
        newest = self._checkpoints.newest
        problem = f"{self._run.path} cannot be resumed"
        folder = self._world.together(lambda: newest() if self._world.is_first else None, problem)[0]
        if folder is None:
            return
        # Adam's state exists only after a step: take one that moves nothing.
        self._backend.model.train()
        self._global_batch(self._order.batch(0), 0.0)
        progress = self._checkpoints.load(folder)
        if progress.fingerprint != self._progress.fingerprint:
            raise RunError(
                f"{folder} was trained on other data than {self._run.path} now names: use another --run name"
            )
        if progress.precision != self._precision:
            raise RunError(
                f"{folder} was trained in {progress.precision}, and this machine would go on in {self._precision}: "
                f"give --train.precision {progress.precision}"
            )
        self._progress = progress
        if self._world.is_first:
            print(f"Resuming {self._run.path} from step {progress.step} of {self._total}.", flush=True)


def _swap(new: Path, current: Path, old: Path) -> None:
    if current.exists():
        current.rename(old)
    new.rename(current)
    shutil.rmtree(old, ignore_errors=True)


def _to(batch: Batch, device: torch.device) -> Batch:
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value for key, value in batch.items()
    }


def train(task: Task, options: Training, seed: int, run: RunFolder, world: World) -> dict[str, Any]:
    """Train `task` in `run`, resuming what is there. Collective; see `Trainer.run`."""
    return Trainer(task, options, seed, run, world).run()
