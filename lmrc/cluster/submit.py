"""Submitting a stage to SLURM through submitit: one task a GPU."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from lmrc.cluster.stages import STAGES, Stage, StageConfig
from lmrc.config import ClusterOptions
from lmrc.errors import ConfigError
from lmrc.run import RunFolder

GPUS_PER_NODE = 8
# Seconds before the time limit at which SLURM warns, enough for a checkpoint.
SIGNAL_DELAY = 120
# Every preemption in a short slot counts as a time-out: the default of 3 would end a job that is merely unlucky.
MAX_REQUEUES = 100


def gpus_per_node(options: ClusterOptions) -> int:
    """GPUs a node. Raises ConfigError where the total does not divide by the nodes."""
    total = options.gpus or options.nodes * GPUS_PER_NODE
    if total % options.nodes:
        raise ConfigError(
            f"--gpus {total} is the total and does not divide by --nodes {options.nodes}: give a multiple"
        )
    return total // options.nodes


def parameters(stage: Stage, options: ClusterOptions) -> dict[str, Any]:
    """What submitit's SlurmExecutor is given."""
    each = gpus_per_node(options) if stage.trains else 1
    optional = {
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "mem_per_gpu": options.mem_per_gpu,
    }
    return {
        "job_name": f"lmrc-{stage.name}",
        "nodes": options.nodes if stage.trains else 1,
        "ntasks_per_node": each,
        "gpus_per_node": each,
        "cpus_per_task": options.cpus_per_gpu,
        "time": options.time,
        "signal_delay_s": SIGNAL_DELAY,
        **{name: value for name, value in optional.items() if value is not None},
    }


def sbatch_script(stage: Stage, config: StageConfig) -> str:
    """The sbatch script that would be submitted, for --dry-run."""
    from submitit.slurm import slurm

    folder = RunFolder.of(config.run).path / "log"
    script: str = slurm._make_sbatch_string(
        command="python -m submitit.core._submit", folder=folder, **parameters(stage, config.cluster)
    )
    return script


class Job:
    """What each task runs; submitit pickles it, and calls `checkpoint` on a preempted job's rank 0."""

    def __init__(self, stage: str, config: StageConfig) -> None:
        self._stage = stage
        self._config = config

    def __call__(self) -> dict[str, Any]:
        import submitit

        from lmrc.engine import distributed

        job = submitit.JobEnvironment()
        hosts = subprocess.run(["scontrol", "show", "hostnames"], capture_output=True, text=True, check=True)
        os.environ.update(
            RANK=str(job.global_rank),
            LOCAL_RANK=str(job.local_rank),
            WORLD_SIZE=str(job.num_tasks),
            MASTER_ADDR=hosts.stdout.split()[0],
            # One port a job, so that two jobs on a node do not meet.
            MASTER_PORT=str(20000 + int(os.environ["SLURM_JOB_ID"]) % 20000),
        )
        stage = STAGES[self._stage]
        world = distributed.join()
        try:
            result = stage.run(self._config, world)
        finally:
            distributed.leave()
        if world.is_first:
            RunFolder.of(self._config.run).finish(result)
        return result

    def checkpoint(self) -> Any:
        """The same again: the run folder holds the state."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def submit(stage: Stage, config: StageConfig) -> str:
    """Submit the stage; returns the job id."""
    import submitit

    folder: Path = RunFolder.of(config.run).path / "log"
    executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=MAX_REQUEUES)
    executor.update_parameters(**parameters(stage, config.cluster))
    with submitit.helpers.clean_env():
        return str(executor.submit(Job(stage.name, config)).job_id)
