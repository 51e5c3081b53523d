"""Where and how a stage would run, settled before anything is written or submitted."""

from __future__ import annotations

from dataclasses import dataclass

from lmrc.config.schema import ClusterOptions, RcConfig, RcpConfig
from lmrc.launcher.allocation import allocate, with_exported
from lmrc.launcher.batch import settle_batch
from lmrc.launcher.slurm import commands as slurm
from lmrc.launcher.slurm.submit import processes, workers
from lmrc.launcher.stages import Stage, StageConfig, gpus_per_process


def place_of(stage: Stage, options: ClusterOptions, each: int = 1) -> str:
    """Where the stage runs: `slurm`, `local` (processes of this machine, of `each` GPUs) or `here` (this process)."""
    if options.where != "auto":
        return options.where
    if slurm.is_here():
        return "slurm"
    from lmrc.launcher.local import processes_here

    return "local" if processes_here(stage, options, each)[0] > 1 else "here"


@dataclass(frozen=True)
class LaunchPlan:
    """A launch before anything is written: where, on how many processes, and the config with these numbers settled."""

    stage: Stage
    config: StageConfig
    place: str
    """`slurm`, `local` or `here`, as `place_of` returns it."""
    processes: int
    """Ranks of a training, workers of an inference."""
    where: str
    """The sentence that says where it runs."""
    notes: tuple[str, ...] = ()
    """What was decided for the user, a sentence each."""

    @property
    def batch(self) -> str:
        """The sentence about the examples per optimizer step; empty if nothing is trained."""
        return self.config.train.batch_sentence if isinstance(self.config, (RcpConfig, RcConfig)) else ""


def plan(stage: Stage, config: StageConfig) -> LaunchPlan:
    """Settle where and how a stage runs, without writing anything.

    Raises:
        ConfigError: the numbers of nodes, GPUs and examples per step do not fit together.
    """
    each = gpus_per_process(config)
    place = place_of(stage, config.cluster, each)
    notes: list[str] = []
    if place == "slurm" and stage.run is None:
        cluster, notes = with_exported(config.cluster)
        config = config.model_copy(update={"cluster": allocate(cluster)})
        count = processes(config.cluster) if stage.trains else workers(config)
        kind = "task" if stage.trains else "worker"
        of = f" of {each} GPUs" if each > 1 else ""
        where = f"SLURM ({count} {kind}{'s' if count > 1 else ''}{of}"
        where += f" on {config.cluster.nodes} node{'s' if config.cluster.nodes != 1 else ''})" if stage.trains else ")"
    elif place == "slurm":
        cluster, notes = with_exported(config.cluster)
        config, count, where = config.model_copy(update={"cluster": cluster}), 1, "SLURM (1 task)"
    else:
        from lmrc.launcher.local import processes_here

        count, sentence = processes_here(stage, config.cluster, each)
        where = f"this machine: {sentence}"
    if isinstance(config, (RcpConfig, RcConfig)):
        config = settle_batch(config, count)
    return LaunchPlan(stage, config, place, count, where, tuple(notes))
