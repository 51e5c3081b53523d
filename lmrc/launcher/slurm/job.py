"""The callable that submitit runs in every task of a job, on SLURM and on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lmrc.common import threads
from lmrc.common.errors import RunError
from lmrc.common.exit_codes import Interrupted
from lmrc.launcher.hub_cache import use_cached_model
from lmrc.launcher.run_stage import run_attempt
from lmrc.launcher.slurm import commands as slurm
from lmrc.launcher.slurm.requeue import current_attempt, requeue
from lmrc.launcher.stages import STAGES, StageConfig, gpus_per_process
from lmrc.runs.run_folder import RunFolder


class Job:
    """A stage in one task. submitit pickles it, and calls `checkpoint` on a signal before the stage handles signals."""

    def __init__(self, stage: str, config: StageConfig) -> None:
        self._stage = stage
        self._config = config
        # The config's paths are relative to this folder, but the task starts in the code snapshot.
        self._folder = Path.cwd()

    def __call__(self) -> dict[str, Any] | None:
        import submitit

        threads.configure()
        os.chdir(self._folder)
        use_cached_model(self._config)
        environment = submitit.JobEnvironment()
        stage = STAGES[self._stage]
        if RunFolder.of(self._config.run).result() is not None:
            return None  # finished by another job while this one was queued
        is_slurm = environment.cluster == "slurm"
        attempt = current_attempt(environment.job_id if is_slurm else f"local-{environment.job_id}")
        if not stage.trains:
            _restrict_visible_gpus(environment.local_rank, gpus_per_process(self._config))
        # Workers of an inference form no process group.
        size = environment.num_tasks if stage.trains else 1
        os.environ.update(
            RANK=str(environment.global_rank if stage.trains else 0),
            LOCAL_RANK=str(environment.local_rank if stage.trains else 0),
            WORLD_SIZE=str(size),
            MASTER_ADDR=_first_host() if size > environment.num_tasks // environment.num_nodes else "127.0.0.1",
            MASTER_PORT=str(_port(environment.raw_job_id)),
        )
        try:
            return run_attempt(stage, self._config, attempt, environment.global_rank)
        except Interrupted as error:
            print(error, flush=True)
            if not stage.trains or environment.global_rank == 0:
                requeue(RunFolder.of(self._config.run).path, attempt, self._config.cluster.max_requeues)
            # Status 0: if one task failed, SLURM would end the others before they have saved.
            raise SystemExit(0) from None

    def checkpoint(self) -> Any:
        """Return the same callable for submitit to submit again. The state is in the run folder."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def _restrict_visible_gpus(worker: int, gpus_per_worker: int) -> None:
    """Set CUDA_VISIBLE_DEVICES to this worker's own GPUs.

    Must be called before CUDA starts. Child processes of libraries such as vLLM inherit the setting.
    """
    visible = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    if visible:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(
            visible[worker * gpus_per_worker : (worker + 1) * gpus_per_worker]
        )


def _first_host() -> str:
    try:
        return slurm.hostnames(os.environ["SLURM_JOB_NODELIST"])[0]
    except slurm.SlurmError as error:
        # Not in the pre-flight: the nodes are known only when the job runs.
        raise RunError(f"cannot find the job's first node: {error}") from None


def _port(job: str) -> int:
    """Return a port that depends on the job id, so that two jobs on a node use different ports."""
    return 20000 + int(job) % 20000
