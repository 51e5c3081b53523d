"""Run a stage in one process: check its inputs, hold the run's lease, record events and the result."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lmrc.common.errors import RunError, UserError
from lmrc.common.exit_codes import Interrupted
from lmrc.common.threads import cpus
from lmrc.config.schema import ClassifyConfig, ProposeConfig, RcConfig, RcpConfig
from lmrc.inference.run_worker import clean, work
from lmrc.launcher.slurm import node_check
from lmrc.launcher.slurm.job_chain import current_job
from lmrc.launcher.slurm.requeue import current_attempt
from lmrc.launcher.stages import Stage, StageConfig, gpus_per_process
from lmrc.runs.events import History
from lmrc.runs.failures import BROKEN_NODE_STATUS, Attempt, BrokenNode, failed_peer, note_failure
from lmrc.runs.lease import Lease, LeaseHeld
from lmrc.runs.run_folder import RunFolder
from lmrc.usage.meter import UseMeter
from lmrc.usage.record import Use, read_use, use_figures

if TYPE_CHECKING:
    from lmrc.training.distributed import World


# Set by slurm/eval.sh, which requeues its task without a bad node, although the launcher did not submit it.
CHECK_NODE = "LMRC_CHECK_NODE"


def run_attempt(
    stage: Stage, config: StageConfig, attempt: Attempt, process: int = 0, began: float | None = None
) -> dict[str, Any] | None:
    """Run the stage in one process of a job.

    Args:
        process: index of the process in the job, for the name of its failure record.
        began: time.monotonic() at the start of the process, if it was started for this stage; by default now.

    Returns:
        The result in rank 0 of a training and in the worker that merges an inference; None in the others.

    Raises:
        Interrupted: the stage saved its state after a signal.
        UserError: an input or an option is wrong.
        RunError: another process holds the run.
        Exception: any other error of the stage. All but Interrupted are recorded in the run folder. A rank of several
            ends its process instead, see `_end_rank`.
    """
    folder = RunFolder.of(config.run).path
    began = time.monotonic() if began is None else began
    checked = _checked_attempt(config, attempt)
    try:
        if checked is not None and os.environ.get("LOCAL_RANK", "0") == "0":
            node_check.check_host(folder)
        # A job that was submitted with dependencies checks here that its predecessors have written its inputs.
        stage.check(config)
        if stage.run is not None:
            return _run(stage, config, attempt, began)
        if isinstance(config, ClassifyConfig) and (config.decode.backend != "hf" or not config.asks_lm):
            # A server or no LM needs no GPU, and vLLM's processes cannot inherit this one's CUDA context.
            return _infer(stage, config, attempt, began)
        return _run_on_gpus(stage, config, attempt, process, began, checks_node=checked is not None)
    except Interrupted:
        raise
    except BaseException as error:
        if isinstance(error, Exception):
            note_failure(folder, checked if isinstance(error, BrokenNode) and checked else attempt, error, process)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 or isinstance(error, BrokenNode):
            _end_rank(error)
        raise


def _checked_attempt(config: StageConfig, attempt: Attempt) -> Attempt | None:
    """Return the attempt whose node is checked; None if no other node can be had: that needs SLURM and a requeue."""
    if not config.cluster.node_check:
        return None
    if attempt.job.startswith("local-"):
        return current_attempt(current_job()) if CHECK_NODE in os.environ else None
    return attempt


def _end_rank(error: BaseException) -> NoReturn:
    """Print the traceback and end this process without leaving the process group.

    The other ranks may wait in a collective. NCCL's destruction of the group would then wait for them until their
    timeout. It also runs at the end of Python.
    """
    sys.stdout.flush()
    traceback.print_exception(error)
    sys.stderr.flush()
    if isinstance(error, BrokenNode):
        os._exit(BROKEN_NODE_STATUS)
    os._exit(2 if isinstance(error, UserError) else 1)


def _run_on_gpus(
    stage: Stage, config: StageConfig, attempt: Attempt, process: int, began: float, checks_node: bool
) -> dict[str, Any] | None:
    """Run one rank of a training, or one worker of an inference."""
    from lmrc.training import cuda_settings, distributed
    from lmrc.training.watchdog import Watchdog

    cuda_settings.use_expandable_segments()
    folder, timeout = RunFolder.of(config.run).path, timedelta(minutes=config.cluster.collective_timeout_minutes)
    watchdog = Watchdog(
        timeout, partial(note_failure, folder, attempt, process=process), partial(failed_peer, folder, attempt, process)
    )
    if checks_node:
        node_check.check_gpus(all_visible=not stage.trains)
    deterministic = isinstance(config, (RcpConfig, RcConfig)) and config.train.deterministic
    with cuda_settings.algorithms(deterministic):
        world = distributed.init_process_group(timeout, watchdog, began)
        try:
            if isinstance(config, (ProposeConfig, ClassifyConfig)):
                result = _infer(stage, config, attempt, began, world)
            else:
                result = _train(stage, config, world, attempt)
        except Interrupted:
            # All ranks have agreed to stop.
            if world.size > 1:
                distributed.destroy_process_group(world)
            raise
        if world.size > 1:  # DeepSpeed reuses the group of a single process for the next run in it
            distributed.destroy_process_group(world)
        return result


@contextlib.contextmanager
def _run_lease(folder: Path, world: World) -> Iterator[None]:
    """Hold the run's lease in rank 0. If another process holds it, all ranks raise the same RunError."""
    lease = Lease(folder) if world.is_first else None
    refusal = ""
    if lease is not None:
        try:
            lease.acquire()
        except LeaseHeld as error:
            refusal = str(error)
    refusal = world.broadcast(refusal)
    if refusal:
        # Not in the pre-flight: another process may start the run after it.
        raise RunError(refusal)
    try:
        yield
    finally:
        if lease is not None:
            lease.release()


def _train(stage: Stage, config: StageConfig, world: World, attempt: Attempt) -> dict[str, Any] | None:
    assert stage.train is not None
    folder = RunFolder.of(config.run)

    def note(event: str, **fields: str | int) -> None:
        if world.is_first:
            History(folder.path).add(event, job=attempt.job, restart=attempt.restart, **fields)

    with _run_lease(folder.path, world):
        start = time.monotonic()
        note("started", hosts=",".join(world.gather(socket.gethostname())))
        try:
            result = stage.train(config, world)
        except Interrupted as error:
            note("preempted", cause=str(error))
            raise
        if not world.is_first:
            return None
        return _finish(folder, attempt, result, start, config)


def _infer(
    stage: Stage, config: ProposeConfig | ClassifyConfig, attempt: Attempt, began: float, world: World | None = None
) -> dict[str, Any] | None:
    """Run one worker. The worker that merges the units returns the result.

    Args:
        world: this process with its GPU; None if it must not start CUDA.
    """
    from lmrc.inference.interruptible import InterruptibleInference
    from lmrc.inference.metered import MeteredInference

    assert stage.infer is not None
    folder = RunFolder.of(config.run)
    start = time.monotonic()
    # SLURM's workers, possibly hundreds, are listed by SLURM and need no events.
    history, is_local = History(folder.path), attempt.job.startswith("local-")
    if is_local:
        history.add("started", job=attempt.job, restart=attempt.restart, hosts=socket.gethostname())
    try:
        metered = MeteredInference(stage.infer(config), _worker_meter(config, began, world), folder.path)
        try:
            with InterruptibleInference(metered) as inference:
                result = work(folder.path, inference, config.work, stop=inference.is_asked_to_stop)
        finally:
            metered.close()
    except Interrupted as error:
        if is_local:
            history.add("stopped", job=attempt.job, restart=attempt.restart, cause=str(error))
        raise
    if result is None:
        return None
    result = _finish(folder, attempt, result, start, config)
    clean(folder.path)
    return result


def _worker_meter(config: ProposeConfig | ClassifyConfig, began: float, world: World | None) -> UseMeter:
    if world is not None:
        from lmrc.training.measured_use import make_meter

        return make_meter(world, "documents", gpus_per_process(config), is_worker=True)
    # vLLM has the GPUs in its own processes. A job holds its GPUs even if no process of it uses them.
    gpus = len([gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu])
    if not gpus and isinstance(config, ClassifyConfig) and config.asks_lm and config.decode.backend == "vllm":
        gpus = gpus_per_process(config)
    return UseMeter(Use(cores=cpus(), gpus=gpus, is_worker=True), began)


def _run(stage: Stage, config: StageConfig, attempt: Attempt, began: float) -> dict[str, Any]:
    """Run a stage that needs a single process and no GPU."""
    assert stage.run is not None
    folder = RunFolder.of(config.run)
    start = time.monotonic()
    with Lease(folder.path):
        History(folder.path).add("started", job=attempt.job, restart=attempt.restart, hosts=socket.gethostname())
        meter = UseMeter(Use(cores=cpus()), began)
        result = stage.run(config)
        meter.close(folder.path)
        return _finish(folder, attempt, result, start, config)


def _finish(
    folder: RunFolder, attempt: Attempt, result: dict[str, Any], start: float, config: StageConfig
) -> dict[str, Any]:
    use = use_figures(read_use(folder.path), config.cluster.gpu_hour_price)
    result |= {"seconds": round(time.monotonic() - start, 1), "use": use}
    # A worker that finds the merged result before its writer has written DONE finishes too.
    if folder.finish(result):
        History(folder.path).add("finished", job=attempt.job, restart=attempt.restart)
    return result
