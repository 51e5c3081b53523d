"""The number of examples per optimizer step: fixed at the first launch of a training and kept by every resume."""

from __future__ import annotations

from lmrc.common.errors import ConfigError
from lmrc.config.schema import RcConfig, RcpConfig
from lmrc.launcher.stages import StageConfig
from lmrc.runs.run_folder import RunFolder

TrainingConfig = RcpConfig | RcConfig


def resolve_batch_size(config: TrainingConfig, processes: int) -> TrainingConfig:
    """Return the config with `train.global_batch_size` set.

    A run that has begun keeps its number. A new run has `train.batch_size`, or one example per process if there are
    more processes.

    Raises:
        ConfigError: there are more processes than examples per step.
    """
    run = RunFolder.of(config.run)
    begun = recorded_batch_size(run) if run.has_begun() else None
    explicit = config.train.global_batch_size
    size = explicit or begun or max(config.train.batch_size, processes)
    if processes > size:
        if begun and not explicit:
            raise ConfigError(
                f"{run.path} was begun with {size} examples per optimizer step, and {processes} GPUs would leave "
                f"{processes - size} of them without one: resume with --gpus {size} or fewer, or begin anew under "
                "another --run name"
            )
        raise ConfigError(
            f"train.global_batch_size is {size}, and {processes} GPUs would leave {processes - size} of them without "
            f"an example: give --gpus {size} or fewer, or --train.global-batch-size {processes} or more"
        )
    return _with_batch_size(config, size)


def with_recorded_batch_size(config: StageConfig) -> StageConfig:
    """Return the config with the batch size that its run folder records, so that the two can be compared."""
    if not isinstance(config, (RcpConfig, RcConfig)) or config.train.global_batch_size:
        return config
    return _with_batch_size(config, recorded_batch_size(RunFolder.of(config.run)))


def recorded_batch_size(run: RunFolder) -> int | None:
    """Return the examples per optimizer step from the run's config.yaml; None if there is no run."""
    size = run.recorded("train.global_batch_size") or run.recorded("train.batch_size")
    return None if size is None else int(size)


def _with_batch_size(config: TrainingConfig, size: int | None) -> TrainingConfig:
    train = config.train.model_copy(update={"global_batch_size": size})
    return config.model_copy(update={"train": train})
