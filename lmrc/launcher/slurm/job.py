"""The callable that submitit runs in every task of a job, on SLURM and on this machine."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from lmrc.common import threads
from lmrc.common.exit_codes import Interrupted
from lmrc.common.logging import set_up_stage_logging
from lmrc.config.schema import ClusterOptions
from lmrc.launcher.hub_cache import use_cached_model
from lmrc.launcher.run_stage import run_attempt
from lmrc.launcher.slurm import commands as slurm
from lmrc.launcher.slurm.requeue import current_attempt, note_interruption, requeue
from lmrc.launcher.stages import STAGES, StageConfig, gpus_per_process
from lmrc.runs.failures import Attempt
from lmrc.runs.run_folder import RunFolder
from lmrc.runs.signals import signal_name

logger = logging.getLogger(__name__)

# A copy of CUDA_VISIBLE_DEVICES, which submitit's local executor replaces by 0,1,… for its processes.
VISIBLE_GPUS = "LMRC_VISIBLE_GPUS"
# Collectives that torch remembers for the failure report, if the user sets no other number.
REMEMBERED_COLLECTIVES = "2000"


def ends_by_script(options: ClusterOptions) -> bool:
    """Return True if the batch script, and not a process of the job, decides how an interrupted job goes on."""
    return options.requeue in ("chain", "never") or options.container is not None


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
        os.environ.setdefault("TORCH_FR_BUFFER_SIZE", REMEMBERED_COLLECTIVES)
        os.chdir(self._folder)
        use_cached_model(self._config)
        environment = submitit.JobEnvironment()
        stage = STAGES[self._stage]
        if RunFolder.of(self._config.run).result() is not None:
            return None  # finished by another job while this one was queued
        is_slurm = environment.cluster == "slurm"
        attempt = current_attempt(environment.job_id if is_slurm else f"local-{environment.job_id}")
        by_script = is_slurm and ends_by_script(self._config.cluster)
        if by_script:
            self._stop_early_on_signal(attempt, stage.trains and environment.global_rank > 0)
        if VISIBLE_GPUS in os.environ:
            os.environ["CUDA_VISIBLE_DEVICES"] = os.environ[VISIBLE_GPUS]
        if not stage.trains:
            _restrict_visible_gpus(environment.local_rank, gpus_per_process(self._config))
        # Workers of an inference form no process group.
        size = environment.num_tasks if stage.trains else 1
        os.environ.update(
            RANK=str(environment.global_rank if stage.trains else 0),
            LOCAL_RANK=str(environment.local_rank if stage.trains else 0),
            WORLD_SIZE=str(size),
            MASTER_ADDR=(
                _first_host(environment.hostnames)
                if size > environment.num_tasks // environment.num_nodes
                else "127.0.0.1"
            ),
            MASTER_PORT=str(_port(environment.raw_job_id, attempt.restart)),
        )
        set_up_stage_logging(self._config.run.verbose)
        try:
            result = run_attempt(stage, self._config, attempt, environment.global_rank, _process_start())
            _end_without_teardown(size)
            return result
        except Interrupted as error:
            logger.info(error)
            if by_script:
                if not stage.trains:  # rank 0 of a training has recorded it
                    note_interruption(RunFolder.of(self._config.run).path, attempt, str(error))
            elif not stage.trains or environment.global_rank == 0:
                requeue(RunFolder.of(self._config.run).path, attempt, self._config.cluster.max_requeues)
            _end_without_teardown(size)
            if not is_slurm:
                return None  # submitit then writes a result, by which the launcher knows that the rank was not killed
            # Status 0: if one task failed, SLURM would end the others before they have saved.
            raise SystemExit(0) from None

    def _stop_early_on_signal(self, attempt: Attempt, is_silent: bool) -> None:
        """End the process at a signal before the stage handles signals, in place of submitit, which would requeue.

        Args:
            is_silent: another rank records the interruption.
        """
        folder = RunFolder.of(self._config.run).path

        def stop(number: int, frame: FrameType | None) -> None:
            if not is_silent:
                note_interruption(folder, attempt, f"{signal_name(number)} before the work began")
            os._exit(0)

        signal.signal(signal.SIGUSR2, stop)

    def checkpoint(self) -> Any:
        """Return the same callable for submitit to submit again. The state is in the run folder."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def _end_without_teardown(size: int) -> None:
    """Let this rank of a group of `size`, which has saved everything, end without Python's teardown."""
    if size > 1:
        from lmrc.training import distributed

        distributed.skip_teardown_at_exit()


def _process_start() -> float:
    """Return time.monotonic() at the start of this process, so that its imports count as use."""
    import psutil

    created: float = psutil.Process().create_time()
    return time.monotonic() - max(0.0, time.time() - created)


def _restrict_visible_gpus(worker: int, gpus_per_worker: int) -> None:
    """Set CUDA_VISIBLE_DEVICES to this worker's own GPUs.

    Must be called before CUDA starts. Child processes of libraries such as vLLM inherit the setting.
    """
    visible = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    if visible:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(
            visible[worker * gpus_per_worker : (worker + 1) * gpus_per_worker]
        )


def _first_host(parsed: Sequence[str]) -> str:
    """Return the job's first node. `parsed` are its nodes as submitit reads them, for containers without scontrol."""
    try:
        return slurm.hostnames(os.environ["SLURM_JOB_NODELIST"])[0]
    except slurm.SlurmError:
        return parsed[0]


def _port(job: str, restart: int) -> int:
    """Return a port that depends on the job id and the restart, below the ports that Linux gives to clients.

    Two jobs on a node use different ports, and a job that was requeued because its port was busy gets another one.
    """
    return 20000 + (int(job) + 997 * restart) % 12000
