"""The number of examples per optimizer step: settled when a training is first launched, and kept by every resume."""

from __future__ import annotations

from lmrc.common.errors import ConfigError
from lmrc.config.schema import RcConfig, RcpConfig
from lmrc.launcher.stages import StageConfig
from lmrc.runs.run_folder import RunFolder

TrainingConfig = RcpConfig | RcConfig


def settle_batch(config: TrainingConfig, processes: int) -> TrainingConfig:
    """Return the config with `train.global_batch_size`.

    A run that has begun keeps its own. A new one has `train.batch_size` examples per step, or one per process if
    there are more processes.

    Raises:
        ConfigError: there are more processes than examples per step.
    """
    run = RunFolder.of(config.run)
    begun = recorded_batch(run) if run.has_begun() else None
    given = config.train.global_batch_size
    size = given or begun or max(config.train.batch_size, processes)
    if processes > size:
        if begun and not given:
            raise ConfigError(
                f"{run.path} was begun with {size} examples per optimizer step, and {processes} GPUs would leave "
                f"{processes - size} of them without one: resume with --gpus {size} or fewer, or begin anew under "
                "another --run name"
            )
        raise ConfigError(
            f"train.global_batch_size is {size}, and {processes} GPUs would leave {processes - size} of them without "
            f"an example: give --gpus {size} or fewer, or --train.global-batch-size {processes} or more"
        )
    return _with_batch(config, size)


def as_recorded(config: StageConfig) -> StageConfig:
    """Return the config with the number of examples per step that its run folder records, to be compared with it."""
    if not isinstance(config, (RcpConfig, RcConfig)) or config.train.global_batch_size:
        return config
    return _with_batch(config, recorded_batch(RunFolder.of(config.run)))


def recorded_batch(run: RunFolder) -> int | None:
    """Return the examples per optimizer step that config.yaml records; None without a run."""
    size = run.recorded("train.global_batch_size") or run.recorded("train.batch_size")
    return None if size is None else int(size)


def _with_batch(config: TrainingConfig, size: int | None) -> TrainingConfig:
    train = config.train.model_copy(update={"global_batch_size": size})
    return config.model_copy(update={"train": train})
