"""The training loop of RCP and RC. It knows neither: the model, the examples and the loss come through `Task`."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmrc.common.errors import ConfigError, RunError
from lmrc.config.schema import Training
from lmrc.runs.run_folder import RunFolder
from lmrc.runs.signals import SIGNALS, Preempted, StopFlag, signal_name
from lmrc.training.backends.base import trained_parameters
from lmrc.training.backends.factory import make_backend
from lmrc.training.best_checkpoint import BestCheckpoint
from lmrc.training.checkpoint import Checkpoints, Progress
from lmrc.training.distributed import World
from lmrc.training.measured_use import make_meter
from lmrc.training.metrics_logger import MetricsLogger
from lmrc.training.precision import autocast, resolve_precision
from lmrc.training.sampler import DeterministicSampler, MicroBatches, step_seed
from lmrc.training.task import Task, to_device
from lmrc.training.trackers.base import check_trackers

logger = logging.getLogger(__name__)

# An epoch ends with a checkpoint only if this share of `train.checkpoint_minutes` has passed. On a GPU an epoch of RCP
# takes half a minute, and a checkpoint has 4.3 GB.
EPOCH_END_SHARE = 1 / 4


def seed_everything(seed: int) -> None:
    """Seed the initialization of weights. Call it before a task is built."""
    random.seed(seed)
    torch.manual_seed(seed)


def rate_scale(step: int, total: int, warmup: int) -> float:
    """Return the learning rate as a share of its peak: linear warm-up from 0, then linear decay to 0.

    Args:
        step: Optimizer steps done before this one, as in the published code.
        total: Optimizer steps of the training.
        warmup: Optimizer steps of the warm-up.
    """
    if step < warmup:
        return step / max(1, warmup)
    return max(0.0, (total - step) / max(1, total - warmup))


def total_steps(examples: int, options: Training) -> int:
    """Return the optimizer steps of a whole training."""
    steps = options.epochs * -(-examples // options.examples_per_step)
    return steps if options.max_steps is None else min(steps, options.max_steps)


@dataclass(frozen=True)
class _Agreed:
    """The result of `Trainer._agree`, the same on all ranks.

    Attributes:
        signal: Name of a signal that a rank received; empty without one.
        is_due: True if a checkpoint is due.
        is_writing: True if a rank is still writing one.
        sums: Sums of the values over all ranks.
    """

    signal: str
    is_due: bool
    is_writing: bool
    sums: list[float]


class Trainer:
    """A training that resumes from the run folder, evaluates, keeps the best or last weights and saves checkpoints.

    Args:
        seed: Seed of the data order and of dropout.

    Raises:
        ConfigError: There are more processes than examples per step, or a tracker's package is missing.
    """

    def __init__(self, task: Task, options: Training, seed: int, run: RunFolder, world: World) -> None:
        batch_size = options.examples_per_step
        if world.size > batch_size:
            raise ConfigError(
                f"an optimizer step has {batch_size} examples, but there are {world.size} processes: every step would "
                f"leave some without an example; use at most {batch_size} GPUs, or a larger train.global_batch_size"
            )
        check_trackers(options.trackers)
        self._task = task
        self._options = options
        self._seed = seed
        self._run = run
        self._world = world
        self._sampler = DeterministicSampler(len(task), batch_size, seed, task.fingerprint())
        self._micro_batches = MicroBatches.plan(world.rank, world.size, batch_size, options.micro_batch_size)
        self._total = total_steps(len(task), options)
        self._warmup = math.ceil(options.warmup * self._total) if options.warmup < 1 else round(options.warmup)
        parameters = trained_parameters(task)
        self._names = list(parameters)
        # Counted before ZeRO-3 replaces the parameters by shards.
        self._trained = sum(parameter.numel() for parameter in parameters.values())
        self._backend = make_backend(task, options, world, self._micro_batches.count)
        self._checkpoints = Checkpoints(run.checkpoints, self._backend, self._names, world, options.checkpoint_keep)
        self._best = BestCheckpoint(run, task, self._backend, self._names, world)
        self._precision = resolve_precision(options.precision)
        self._progress = Progress(
            fingerprint=task.fingerprint(), precision=self._precision, evaluation_due=options.eval_at_start
        )
        self._saved_step = 0  # initial weights need no checkpoint: the seed gives them again
        self._saved_at = time.monotonic()
        self._meter = make_meter(world, task.unit)

    def run(self) -> dict[str, Any]:
        """Train to the end, or until a signal asks to stop. Collective.

        Returns:
            The score of the weights in `best/`, their step, and the number of steps done.

        Raises:
            Preempted: A signal came. A checkpoint is saved.
        """
        # Not in each step: it visits all modules, of which a pretrained part may be in eval mode.
        self._backend.model.train()
        self._resume()
        progress = self._progress
        self._log_summary()
        metrics_logger = None
        if self._world.is_first:
            metrics_logger = MetricsLogger(
                self._run.path,
                progress.step,
                progress.evaluation_due,
                self._total,
                self._task.unit,
                self._options.trackers,
                self._meter,
            )
        self._meter.started()
        try:
            with StopFlag() as stop:
                try:
                    self._train(metrics_logger, stop)
                except Preempted:
                    self._save()
                    raise
        finally:
            if metrics_logger is not None:
                metrics_logger.close()
            self._meter.close(self._run.path if self._world.is_first else None)
        # The record beside the weights, not the progress: they can differ after a kill (see best_checkpoint.py).
        held = self._best.held
        return {
            "metric": self._options.metric,
            "best": held.score if held else progress.best,
            "best_step": held.step if held else progress.best_step,
            "steps": progress.step,
        }

    def _log_summary(self) -> None:
        logger.info(
            f"{self._backend.name}, {self._world.size} process{'es' if self._world.size > 1 else ''} on "
            f"{self._world.device.type}, {self._precision}: {len(self._task)} examples, {self._total} steps of "
            f"{self._options.examples_per_step} ({self._micro_batches.count} x {self._micro_batches.size} per "
            f"process), {self._trained:,} trained parameters"
        )

    def _train(self, metrics_logger: MetricsLogger | None, stop: StopFlag) -> None:
        progress, eval_every = self._progress, self._options.eval_every
        while True:
            if progress.evaluation_due:
                self._evaluate(metrics_logger, stop)
            if progress.step >= self._total or self._out_of_patience():
                break
            is_last = progress.step + 1 == self._total
            is_epoch_end = is_last or self._sampler.ends_epoch(progress.step)
            agreed = self._step(metrics_logger, stop, is_epoch_end)
            progress.evaluation_due = is_epoch_end or bool(eval_every and progress.step % eval_every == 0)
            # Save before the evaluation, which takes long: a kill during it must not lose the epoch.
            if self._heed(agreed) or is_last:
                self._begin_save()
        self._finish_save()

    def _heed(self, agreed: _Agreed) -> bool:
        """Publish a checkpoint that is completely written, and check for a signal. Collective.

        Returns:
            True if the next checkpoint is due; the same on all ranks.

        Raises:
            Preempted: A signal came.
        """
        if not agreed.is_writing:
            self._finish_save()
        if agreed.signal:
            raise Preempted(
                f"{agreed.signal} at step {self._progress.step}/{self._total}: saved; the same command resumes from "
                "there"
            )
        return agreed.is_due

    def _begin_save(self) -> None:
        with self._meter.part("checkpoint"):
            self._checkpoints.begin(self._progress)
        self._saved_step, self._saved_at = self._progress.step, time.monotonic()

    def _finish_save(self) -> None:
        if self._checkpoints.is_begun():
            with self._meter.part("checkpoint"):
                self._checkpoints.finish()

    def _save(self) -> None:
        """Save a checkpoint of this step, unless there is one because the signal came during its evaluation."""
        if self._saved_step != self._progress.step:
            self._begin_save()
        self._finish_save()

    def _agree(self, stop: StopFlag, values: Sequence[Tensor | float] = (), is_epoch_end: bool = False) -> _Agreed:
        """Agree on the next action with all ranks, and sum values over them.

        This takes one all-reduce, and waits for the device once.

        Args:
            values: Scalars of this rank, on its device or on the host.
            is_epoch_end: True if an epoch ends here, so that a checkpoint is due earlier.
        """
        # Clocks differ between ranks, so that of rank 0 decides.
        share = EPOCH_END_SHARE if is_epoch_end else 1.0
        waited = time.monotonic() - self._saved_at
        is_due = self._world.is_first and waited > 60 * share * self._options.checkpoint_minutes
        # Sums, like the values: how many ranks have each signal.
        flags = [is_due, self._checkpoints.is_writing(), *(stop.signal == number for number in SIGNALS)]
        due, writing, *rest = self._world.sum([*flags, *values])
        signals, sums = rest[: len(SIGNALS)], rest[len(SIGNALS) :]
        received = max((number for number, ranks in zip(SIGNALS, signals, strict=True) if ranks), default=0)
        return _Agreed(signal_name(received), bool(due), bool(writing), sums)

    def _out_of_patience(self) -> bool:
        patience = self._options.patience
        return (
            patience is not None and self._options.keep == "best" and self._progress.evaluations_since_best >= patience
        )

    def _global_batch(self, batch: list[int], scale: float) -> tuple[Tensor, Tensor | float]:
        """Run forward, backward and the optimizer step for a global batch, without a wait for the device.

        Args:
            batch: Indices of the examples, over all ranks.
            scale: Learning rate as a share of its peak.

        Returns:
            This rank's part of the mean loss of the batch (float64), and the gradient norm before clipping.
        """
        weight = max(1, sum(self._task.weight(index) for index in batch))
        loss_sum = torch.zeros((), dtype=torch.float64, device=self._world.device)
        step = f"step {self._progress.step + 1}"
        for pass_index, (indices, counts) in enumerate(self._micro_batches.split(batch)):
            with self._world.watch(f"micro-batch {pass_index + 1} of {step}"):
                torch.manual_seed(step_seed(self._seed, self._progress.step, pass_index, self._world.rank))
                with self._meter.part("data"):
                    examples = self._task.collate(indices)
                loss = self._backend.loss(to_device(examples, self._world.device)) / weight
                self._backend.backward(loss if counts else loss * 0.0)
                if counts:
                    loss_sum += loss.detach()
        with self._world.watch(f"the optimizer step of {step}"):
            return loss_sum, self._backend.step(scale)

    def _step(self, metrics_logger: MetricsLogger | None, stop: StopFlag, is_epoch_end: bool) -> _Agreed:
        step = self._progress.step
        batch = self._sampler.batch(step)
        scale = rate_scale(step, self._total, self._warmup)
        loss_part, norm_here = self._global_batch(batch, scale)
        # The norm is the same on all ranks.
        values = [loss_part, norm_here if self._world.is_first else 0.0, *self._meter.own_gpu]
        agreed = self._agree(stop, values, is_epoch_end)
        loss, norm, *gpus = agreed.sums
        if not math.isfinite(loss):
            # Not in the pre-flight: the loss is known when it is computed.
            raise RunError(
                f"the loss of step {step + 1} is {loss} (examples {batch}): lower train.learning_rate or use "
                f"train.precision fp32, and start again under another --run name"
            )
        self._progress.step += 1
        if metrics_logger is not None:
            units = sum(self._task.size(index) for index in batch)
            self._meter.set_gpus(gpus)
            self._meter.add(units, sum(self._task.flops(index) for index in batch))
            metrics_logger.log_step(step + 1, self._sampler.epoch(step), batch, loss, scale, norm, units)
        return agreed

    @torch.no_grad()
    def _evaluate(self, metrics_logger: MetricsLogger | None, stop: StopFlag) -> None:
        """Evaluate on dev, and keep the weights if they are the best, or the last (`train.keep`). Collective.

        Raises:
            Preempted: A signal came meanwhile. The evaluation starts anew after a resume.
        """
        model = self._backend.model
        model.eval()

        def poll(*_: Any) -> None:
            self._heed(self._agree(stop))

        # All ranks make the same number of forward passes (see `Task.evaluate`), so they can agree before each.
        hook = model.register_forward_pre_hook(poll, prepend=True)
        try:
            precision = autocast(self._precision, self._world.device.type)
            with precision, self._world.watch("an evaluation"), self._meter.part("evaluation"):
                metrics = self._task.evaluate(model, self._world)
        finally:
            hook.remove()
            model.train()
        metric = self._options.metric
        if metric not in metrics:
            raise ConfigError(
                f"train.metric is {metric!r}, but the evaluation gives {', '.join(metrics)}: name one of these"
            )
        with self._meter.part("checkpoint"):
            is_best = self._keep_weights(metrics[metric])
        self._progress.evaluation_due = False
        if metrics_logger is not None:
            metrics_logger.log_eval(self._progress.step, metrics, metric, is_best)

    def _keep_weights(self, score: float) -> bool:
        """Write the weights to `best/` if `train.keep` says so, and count evaluations for the patience. Collective.

        Returns:
            True if the score is the best so far.
        """
        progress, held = self._progress, self._best.held
        sign = -1.0 if "loss" in self._options.metric else 1.0
        is_best = progress.best is None or sign * score > sign * progress.best
        if self._options.keep == "last":
            # Also after a resume that repeats this evaluation: the same weights again.
            if progress.step == self._total:
                self._best.replace(progress.step, score)
        elif is_best:
            self._best.replace(progress.step, score)
        elif held is not None and held.step == progress.step:
            # This step was the best before a kill, and best/ holds its weights. The score differs by rounding only.
            is_best, score = True, held.score
        if is_best:
            progress.best, progress.best_step, progress.evaluations_since_best = score, progress.step, 0
        else:
            progress.evaluations_since_best += 1
        return is_best

    def _resume(self) -> None:
        self._best.recover()
        newest = self._checkpoints.newest
        problem = f"{self._run.path} cannot be resumed"
        folder = self._world.run_on_all_ranks(lambda: newest() if self._world.is_first else None, problem)[0]
        if folder is None:
            return
        # Adam's state exists only after a step, so make one with learning rate 0.
        self._global_batch(self._sampler.batch(0), 0.0)
        progress = self._checkpoints.load(folder)
        if progress.fingerprint != self._progress.fingerprint:
            # Not in the pre-flight: the checkpoint is read at the resume, in the precision of the node.
            raise RunError(
                f"{folder} was trained on other data than {self._run.path} now names: use another --run name"
            )
        if progress.precision != self._precision:
            # Not in the pre-flight: the checkpoint is read at the resume, in the precision of the node.
            raise RunError(
                f"{folder} was trained in {progress.precision}, but this machine would continue in "
                f"{self._precision}: give --train.precision {progress.precision}"
            )
        self._progress, self._saved_step = progress, progress.step
        logger.info(f"Resuming {self._run.path} from step {progress.step} of {self._total}.")


def train(task: Task, options: Training, seed: int, run: RunFolder, world: World) -> dict[str, Any]:
    """Train `task` in `run`, or resume it. Collective. See `Trainer.run`."""
    return Trainer(task, options, seed, run, world).run()
