"""The launch plan: where a stage runs and on how many processes, decided before anything is written or submitted."""

from __future__ import annotations

from dataclasses import dataclass

from lmrc.config.schema import ClusterOptions, RcConfig, RcpConfig
from lmrc.launcher.allocation import allocate, with_exported
from lmrc.launcher.batch import resolve_batch_size
from lmrc.launcher.slurm import commands as slurm
from lmrc.launcher.slurm.job_chain import resolve_requeue
from lmrc.launcher.slurm.submit import processes, workers
from lmrc.launcher.stages import Stage, StageConfig, gpus_per_process


def choose_executor(stage: Stage, options: ClusterOptions, gpus_per_worker: int = 1) -> str:
    """Return where the stage runs: `slurm`, `local` (processes on this machine) or `here` (this process)."""
    if options.where != "auto":
        return options.where
    if slurm.is_available():
        return "slurm"
    from lmrc.launcher.local import local_processes

    return "local" if local_processes(stage, options, gpus_per_worker)[0] > 1 else "here"


@dataclass(frozen=True)
class LaunchPlan:
    """The resolved launch of a stage.

    Attributes:
        config: the stage's config with the numbers of nodes, GPUs and examples per step filled in.
        executor: `slurm`, `local` or `here`.
        processes: ranks of a training, or workers of an inference.
        description: where it runs, as text for the user.
        notes: decisions that were taken for the user, one sentence each.
    """

    stage: Stage
    config: StageConfig
    executor: str
    processes: int
    description: str
    notes: tuple[str, ...] = ()

    @property
    def batch(self) -> str:
        """Return a sentence about the examples per optimizer step; empty for an inference."""
        return self.config.train.batch_sentence if isinstance(self.config, (RcpConfig, RcConfig)) else ""


def plan_launch(stage: Stage, config: StageConfig) -> LaunchPlan:
    """Decide where and how a stage runs, without writing anything.

    Raises:
        ConfigError: the numbers of nodes, GPUs and examples per step do not fit together.
    """
    gpus_per_worker = gpus_per_process(config)
    executor = choose_executor(stage, config.cluster, gpus_per_worker)
    notes: list[str] = []
    if executor == "slurm":
        cluster, notes = with_exported(config.cluster)
        cluster, decided = resolve_requeue(cluster)
        notes += decided
        config = config.model_copy(update={"cluster": cluster if stage.run is not None else allocate(cluster)})
    if executor == "slurm" and stage.run is None:
        count = processes(config.cluster) if stage.trains else workers(config)
        kind = "task" if stage.trains else "worker"
        size = f" of {gpus_per_worker} GPUs" if gpus_per_worker > 1 else ""
        description = f"SLURM ({count} {kind}{'s' if count > 1 else ''}{size}"
        description += (
            f" on {config.cluster.nodes} node{'s' if config.cluster.nodes != 1 else ''})" if stage.trains else ")"
        )
    elif executor == "slurm":
        count, description = 1, "SLURM (1 task)"
    else:
        from lmrc.launcher.local import local_processes

        count, sentence = local_processes(stage, config.cluster, gpus_per_worker)
        description = f"this machine: {sentence}"
    if isinstance(config, (RcpConfig, RcConfig)):
        config = resolve_batch_size(config, count)
    return LaunchPlan(stage, config, executor, count, description, tuple(notes))
