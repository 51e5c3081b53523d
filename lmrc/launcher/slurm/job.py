"""What submitit starts in every task of a job, on SLURM and on this machine alike."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lmrc.common import threads
from lmrc.common.errors import RunError
from lmrc.common.exit_codes import Interrupted
from lmrc.launcher.run_stage import run_attempt
from lmrc.launcher.slurm import commands as slurm
from lmrc.launcher.slurm.requeue import requeue, this_attempt
from lmrc.launcher.stages import STAGES, StageConfig, gpus_per_process
from lmrc.runs.run_folder import RunFolder


class Job:
    """Pickled by submitit; `checkpoint` is asked of it where a signal comes before the stage listens to signals."""

    def __init__(self, stage: str, config: StageConfig) -> None:
        self._stage = stage
        self._config = config
        # The config's paths are relative to where the user was; the process starts in the snapshot of the code.
        self._folder = Path.cwd()

    def __call__(self) -> dict[str, Any] | None:
        import submitit

        threads.configure()
        os.chdir(self._folder)
        place = submitit.JobEnvironment()
        stage = STAGES[self._stage]
        if RunFolder.of(self._config.run).result() is not None:
            return None  # done by another start while this one waited in the queue
        attempt = this_attempt(place.job_id if place.cluster == "slurm" else f"local-{place.job_id}")
        if not stage.trains:
            _see_own_gpus(place.local_rank, gpus_per_process(self._config))
        # Workers of an inference do not talk to each other: only a training is one world.
        size = place.num_tasks if stage.trains else 1
        os.environ.update(
            RANK=str(place.global_rank if stage.trains else 0),
            LOCAL_RANK=str(place.local_rank if stage.trains else 0),
            WORLD_SIZE=str(size),
            MASTER_ADDR=_first_host() if size > place.num_tasks // place.num_nodes else "127.0.0.1",
            MASTER_PORT=str(_port(place.raw_job_id)),
        )
        try:
            return run_attempt(stage, self._config, attempt, place.global_rank)
        except Interrupted as error:
            print(error, flush=True)
            if not stage.trains or place.global_rank == 0:
                requeue(RunFolder.of(self._config.run).path, attempt, self._config.cluster.max_requeues)
            # Status 0, as the failure of one task would have SLURM end the others before they are through.
            raise SystemExit(0) from None

    def checkpoint(self) -> Any:
        """The same again: the run folder holds the state."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def _see_own_gpus(worker: int, each: int) -> None:
    """Of the GPUs that are visible to all workers of this machine, have this one see its own only.

    Before CUDA starts; libraries that start processes of their own, such as vLLM, then keep to them as well.
    """
    visible = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    if visible:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(visible[worker * each : (worker + 1) * each])


def _first_host() -> str:
    try:
        return slurm.hostnames(os.environ["SLURM_JOB_NODELIST"])[0]
    except slurm.SlurmError as error:
        # Not in the pre-flight: the nodes are known when the job runs.
        raise RunError(f"cannot name the job's first node: {error}") from None


def _port(job: str) -> int:
    """A port of its own for each job, so that two on a node do not meet."""
    return 20000 + int(job) % 20000
