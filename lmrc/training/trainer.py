"""The training loop of both stages. It knows neither: everything of theirs comes through `Task`."""

from __future__ import annotations

import math
import random
import time
from typing import Any

import torch

from lmrc.common.errors import ConfigError, RunError
from lmrc.config.schema import Training
from lmrc.runs.run_folder import RunFolder
from lmrc.runs.signals import Preempted, StopFlag, signal_name
from lmrc.training.backends.base import trained_parameters
from lmrc.training.backends.factory import make_backend
from lmrc.training.best_checkpoint import BestCheckpoint
from lmrc.training.checkpoint import Checkpoints, Progress
from lmrc.training.distributed import World
from lmrc.training.metrics_logger import MetricsLogger
from lmrc.training.precision import autocast, resolve_precision
from lmrc.training.sampler import DeterministicSampler, MicroBatches, step_seed
from lmrc.training.task import Task, to_device


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
    steps = options.epochs * -(-examples // options.examples_per_step)
    return steps if options.max_steps is None else min(steps, options.max_steps)


class Trainer:
    """One training: resume where the run folder stands, step, evaluate, keep the best, save."""

    def __init__(self, task: Task, options: Training, seed: int, run: RunFolder, world: World) -> None:
        batch_size = options.examples_per_step
        if world.size > batch_size:
            raise ConfigError(
                f"an optimizer step has {batch_size} examples, but there are {world.size} processes: every step would "
                f"leave some without an example; use at most {batch_size} GPUs, or a larger train.global_batch_size"
            )
        self._task = task
        self._options = options
        self._seed = seed
        self._run = run
        self._world = world
        self._order = DeterministicSampler(len(task), batch_size, seed, task.fingerprint())
        self._plan = MicroBatches.plan(world.rank, world.size, batch_size, options.micro_batch_size)
        self._total = total_steps(len(task), options)
        self._warmup = math.ceil(options.warmup * self._total) if options.warmup < 1 else round(options.warmup)
        parameters = trained_parameters(task)
        self._names = list(parameters)
        # Counted now: ZeRO-3 leaves shards behind.
        self._trained = sum(parameter.numel() for parameter in parameters.values())
        self._backend = make_backend(task, options, world, self._plan.count)
        self._checkpoints = Checkpoints(run.checkpoints, self._backend, self._names, world, options.checkpoint_keep)
        self._best = BestCheckpoint(run, task, self._backend, self._names, world)
        self._precision = resolve_precision(options.precision)
        self._progress = Progress(
            fingerprint=task.fingerprint(), precision=self._precision, evaluation_due=options.eval_at_start
        )
        self._saved_step = 0  # the initial weights are made anew
        self._saved_at = time.monotonic()

    def run(self) -> dict[str, Any]:
        """Train to the end, or until a signal asks to stop.

        Returns the result (best score and its step, steps done). Raises Preempted after saving on a signal.
        """
        self._resume()
        progress = self._progress
        logger = None
        if self._world.is_first:
            logger = MetricsLogger(self._run.path, progress.step, progress.evaluation_due, self._total, self._task.unit)
            self._announce(logger)
        try:
            with StopFlag() as stop:
                try:
                    self._train(logger, stop)
                except Preempted:
                    self._save()
                    raise
        finally:
            if logger is not None:
                logger.close()
        # Not the progress: the weights may be of a step that was made on other processes (`lmrc.training.best_checkpoint`).
        held = self._best.held
        return {
            "metric": self._options.metric,
            "best": held.score if held else progress.best,
            "best_step": held.step if held else progress.best_step,
            "steps": progress.step,
        }

    def _announce(self, logger: MetricsLogger) -> None:
        options = self._options
        logger.print(
            f"{self._backend.name}, {self._world.size} process{'es' if self._world.size > 1 else ''} on "
            f"{self._world.device.type}, {self._precision}: {len(self._task)} examples, {self._total} steps of "
            f"{options.examples_per_step} ({self._plan.count} x {self._plan.size} per process), "
            f"{self._trained:,} trained parameters"
        )

    def _train(self, logger: MetricsLogger | None, stop: StopFlag) -> None:
        progress, every = self._progress, self._options.eval_every
        while True:
            if progress.evaluation_due:
                self._evaluate(logger, stop)
            if progress.step >= self._total or self._out_of_patience():
                break
            self._step(logger)
            ends = self._order.ends_epoch(progress.step - 1) or progress.step == self._total
            progress.evaluation_due = ends or bool(every and progress.step % every == 0)
            # Before the evaluation, which is long: a kill must not take the steps as well.
            if self._poll(stop) or ends:
                self._begin_save()
        if self._checkpoints.is_begun():
            self._checkpoints.finish()

    def _poll(self, stop: StopFlag) -> bool:
        """Publish a checkpoint that is written. Returns whether the next is due; raises Preempted on a signal.

        Collective, and the same on all ranks.
        """
        signal, overdue, writing = self._agree(stop)
        if self._checkpoints.is_begun() and not writing:
            self._checkpoints.finish()
        if signal:
            raise Preempted(
                f"{signal} at step {self._progress.step}/{self._total}: saved; the same command resumes from there"
            )
        return overdue

    def _begin_save(self) -> None:
        self._checkpoints.begin(self._progress)
        self._saved_step, self._saved_at = self._progress.step, time.monotonic()

    def _save(self) -> None:
        """Leave with a checkpoint of this step; there is one already where a signal came in its evaluation."""
        if self._saved_step != self._progress.step:
            self._begin_save()
        if self._checkpoints.is_begun():
            self._checkpoints.finish()

    def _agree(self, stop: StopFlag) -> tuple[str, bool, bool]:
        """(signal's name or "", a checkpoint is due, one is being written): the same on all ranks, in one exchange."""
        # Clocks differ between ranks: the first one's decides.
        overdue = self._world.is_first and time.monotonic() - self._saved_at > 60 * self._options.checkpoint_minutes
        signal, due, writing = self._world.max([stop.signal, overdue, self._checkpoints.is_writing()])
        return signal_name(int(signal)), bool(due), bool(writing)

    def _out_of_patience(self) -> bool:
        patience = self._options.patience
        return patience is not None and self._progress.evaluations_since_best >= patience

    def _global_batch(self, batch: list[int], scale: float) -> tuple[float, float]:
        """Forward, backward and step over one global batch. Returns its mean loss and the gradient's norm."""
        weight = max(1, sum(self._task.weight(index) for index in batch))
        loss_sum = 0.0
        for number, (indices, counts) in enumerate(self._plan.split(batch)):
            torch.manual_seed(step_seed(self._seed, self._progress.step, number, self._world.rank))
            loss = self._backend.loss(to_device(self._task.collate(indices), self._world.device)) / weight
            self._backend.backward(loss if counts else loss * 0.0)
            loss_sum += float(loss.detach()) if counts else 0.0
        return self._world.sum([loss_sum])[0], self._backend.step(scale)

    def _step(self, logger: MetricsLogger | None) -> None:
        step = self._progress.step
        batch = self._order.batch(step)
        self._backend.model.train()
        scale = rate_scale(step, self._total, self._warmup)
        loss, norm = self._global_batch(batch, scale)
        if not math.isfinite(loss):
            # Not in the pre-flight: the loss is known when it is computed.
            raise RunError(
                f"the loss of step {step + 1} is {loss} (examples {batch}): lower train.learning_rate or use "
                f"train.precision fp32, and start again under another --run name"
            )
        self._progress.step += 1
        if logger is not None:
            units = sum(self._task.size(index) for index in batch)
            logger.log_step(step + 1, self._order.epoch(step), batch, loss, scale, norm, units)

    @torch.no_grad()
    def _evaluate(self, logger: MetricsLogger | None, stop: StopFlag) -> None:
        """Raises Preempted when a signal comes meanwhile: the evaluation is then done from the start after a resume."""
        model = self._backend.model
        model.eval()

        def heed(*_: Any) -> None:
            self._poll(stop)

        # All ranks make the same number of forward passes (`Task.evaluate`): before each they can agree.
        hook = model.register_forward_pre_hook(heed, prepend=True)
        try:
            with autocast(self._precision, self._world.device.type):
                metrics = self._task.evaluate(model, self._world)
        finally:
            hook.remove()
        metric = self._options.metric
        if metric not in metrics:
            raise ConfigError(
                f"train.metric is {metric!r}, but the evaluation gives {', '.join(metrics)}: name one of these"
            )
        better = self._compare(metrics[metric])
        self._progress.evaluation_due = False
        if logger is not None:
            logger.log_eval(self._progress.step, metrics, metric, better)

    def _compare(self, score: float) -> bool:
        """Count the score, and keep the weights where it is the best. Returns whether it is."""
        progress, held = self._progress, self._best.held
        sign = -1.0 if "loss" in self._options.metric else 1.0
        better = progress.best is None or sign * score > sign * progress.best
        if better:
            self._best.replace(progress.step, score)
        elif held is not None and held.step == progress.step:
            # It was better before a kill, on other processes, and its weights took the place of those before.
            better, score = True, held.score
        if better:
            progress.best, progress.best_step, progress.evaluations_since_best = score, progress.step, 0
        else:
            progress.evaluations_since_best += 1
        return better

    def _resume(self) -> None:
        self._best.recover()
        newest = self._checkpoints.newest
        problem = f"{self._run.path} cannot be resumed"
        folder = self._world.run_on_all_ranks(lambda: newest() if self._world.is_first else None, problem)[0]
        if folder is None:
            return
        # Adam's state exists only after a step: take one that moves nothing.
        self._backend.model.train()
        self._global_batch(self._order.batch(0), 0.0)
        progress = self._checkpoints.load(folder)
        if progress.fingerprint != self._progress.fingerprint:
            # Not in the pre-flight: the checkpoint is read at the resume, in the precision of the node.
            raise RunError(
                f"{folder} was trained on other data than {self._run.path} now names: use another --run name"
            )
        if progress.precision != self._precision:
            # Not in the pre-flight: the checkpoint is read at the resume, in the precision of the node.
            raise RunError(
                f"{folder} was trained in {progress.precision}, and this machine would go on in {self._precision}: "
                f"give --train.precision {progress.precision}"
            )
        self._progress, self._saved_step = progress, progress.step
        if self._world.is_first:
            print(f"Resuming {self._run.path} from step {progress.step} of {self._total}.", flush=True)


def train(task: Task, options: Training, seed: int, run: RunFolder, world: World) -> dict[str, Any]:
    """Train `task` in `run`, resuming what is there. Collective; see `Trainer.run`."""
    return Trainer(task, options, seed, run, world).run()
