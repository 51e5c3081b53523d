"""Run a stage on this machine: in this process, or in several through submitit's local executor."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from lmrc.common import threads
from lmrc.common.errors import ConfigError, UserError
from lmrc.common.exit_codes import Failed, Interrupted
from lmrc.config.schema import ClusterOptions
from lmrc.launcher.environment_variables import variables
from lmrc.launcher.run_stage import run_attempt
from lmrc.launcher.slurm.follow_log import follow
from lmrc.launcher.slurm.job import VISIBLE_GPUS, Job
from lmrc.launcher.stages import Stage, StageConfig, gpus_per_process
from lmrc.runs.events import History
from lmrc.runs.failures import Attempt, attempt_outcome, has_report, note_killed, remove_reports
from lmrc.runs.run_folder import RunFolder
from lmrc.runs.signals import SignalListener

if TYPE_CHECKING:
    import psutil

POLL_SECONDS = 0.2
# Stop signals are repeated: a process that is still importing has no signal handler yet.
SECONDS_BETWEEN_STOP_SIGNALS = 2.0
# Ranks that hang after another one failed are killed; submitit would wait for them until cluster.time.
SURVIVOR_GRACE_SECONDS = 10.0


def local_processes(stage: Stage, options: ClusterOptions, gpus_per_worker: int = 1) -> tuple[int, str]:
    """Return the number of processes to start on this machine, and a description for the user.

    Raises:
        ConfigError: there are fewer GPUs than one process needs.
    """
    import torch

    devices, cores = torch.cuda.device_count(), threads.cpus()
    kind, available = ("GPU", devices) if devices else ("CPU core", cores)
    usable = min(options.gpus or devices, devices)
    if gpus_per_worker > 1 and usable < gpus_per_worker:
        raise ConfigError(
            f"decode.gpus_per_worker is {gpus_per_worker}, but the run has {usable} GPUs on this machine: "
            "lower it, or raise --gpus"
        )
    requested = (gpus_per_worker if devices else 1) if options.where == "here" else options.gpus
    # A single process already uses all CPU cores, so that is the default without a GPU.
    count = min(requested or (devices or 1), available)
    note = (
        f" ({requested} requested; this machine has {available} {kind}{'s' if available > 1 else ''})"
        if requested and requested > available
        else ""
    )
    if options.where == "here" and (options.gpus or 1) > (requested or 1):
        note = f" (--gpus {options.gpus} is not used: --where here is one process, --where local starts several)"
    if devices:
        count //= gpus_per_worker
        share = f"{gpus_per_worker} GPUs each" if gpus_per_worker > 1 else "one per GPU"
        return count, f"{count} process{'es' if count > 1 else ''}, {share}{note}"
    # Workers of an inference form no process group.
    several = "gloo processes" if stage.trains else "processes"
    return count, f"{count} {several if count > 1 else 'process'} on the CPU{note}"


def run_here(stage: Stage, config: StageConfig) -> dict[str, Any] | None:
    """Run the stage in this process. Return its result, or None if another worker has it."""
    return run_attempt(stage, config, Attempt(f"local-{os.getpid()}"))


def run_processes(stage: Stage, config: StageConfig, processes: int) -> dict[str, Any] | None:
    """Run the stage in new processes and show the output of rank 0. Return its result as `run_here` does.

    Raises:
        UserError: a process raised UserError.
        Interrupted: the processes saved their state after a signal.
        Failed: a process died.
    """
    import psutil
    import submitit
    import torch

    run, options = RunFolder.of(config.run), config.cluster
    devices = torch.cuda.device_count()
    executor = submitit.LocalExecutor(folder=run.path / "log")
    executor.update_parameters(
        timeout_min=options.time,
        tasks_per_node=processes,
        gpus_per_node=processes * gpus_per_process(config) if devices else 0,
        signal_delay_s=options.signal_delay,
        setup=options.setup.strip().splitlines(),
    )
    with _environment(options, processes):
        job = executor.submit(Job(stage.name, config))
    controller, attempt = job._process, Attempt(f"local-{job.job_id}")
    remove_reports(run.path, attempt)
    results = [job.task(rank).paths.result_pickle for rank in range(processes)]
    for path in results:
        path.unlink(missing_ok=True)  # of an earlier run with the same process id
    # Workers of an inference continue if another one fails.
    ranks = _Ranks(controller.pid, results) if stage.trains else None
    survivors = _SurvivingRanks(run, attempt)
    with _StopSignals() as stops:

        def running() -> bool:
            if stops.is_due():
                controller.send_signal(signal.SIGTERM)
            # After a stop signal or another failure, a killed rank is not the cause.
            if ranks is not None and not stops.received and not survivors.exist():
                for rank in ranks.killed():
                    if run.result() is None and not has_report(run.path, attempt, rank):
                        note_killed(run.path, attempt, rank)
            if ranks is not None and survivors.is_overdue():
                for process in psutil.Process(controller.pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
            return controller.poll() is None

        follow(job.paths.stdout, running, POLL_SECONDS)
    return _outcome(run, attempt, processes, stops.received)


@contextlib.contextmanager
def _environment(options: ClusterOptions, processes: int) -> Iterator[None]:
    """Set what the processes inherit: environment variables, OMP_NUM_THREADS, and SIGINT ignored.

    submitit's controller would kill its processes one second after Ctrl-C. They handle SIGINT themselves once they
    can save.
    """
    chosen = {name: os.path.expandvars(value) for name, value in variables(options).items()}
    chosen |= threads.environment_per_process(processes)
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        chosen[VISIBLE_GPUS] = os.environ["CUDA_VISIBLE_DEVICES"]
    before = {name: os.environ.get(name) for name in chosen}
    os.environ.update(chosen)
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _outcome(run: RunFolder, attempt: Attempt, processes: int, stopped: bool) -> dict[str, Any] | None:
    result = run.result()
    if result is not None:
        return result
    for event in History(run.path).read():
        if event["event"] == "preempted" and event.get("job") == attempt.job:
            raise Interrupted(str(event["cause"]))
    outcome = attempt_outcome(run.path, attempt)
    if stopped and not outcome.cause:
        raise Interrupted("stopped; the same command resumes")
    cause = outcome.cause or f"one of {processes} processes died"
    History(run.path).add("failed", job=attempt.job, restart=attempt.restart, cause=cause)
    if outcome.is_user_error:
        raise UserError(cause)
    job = attempt.job.removeprefix("local-")
    logs = run.path / "log" / f"{job}_*_log.err"
    raise Failed(f"{cause}; their logs are in {logs}")


class _StopSignals(SignalListener):
    """Stop signals to the launcher, to be forwarded to its processes, which then save and end."""

    def __init__(self) -> None:
        super().__init__()
        self.received = False
        self._last = 0.0

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.received = True

    def is_due(self) -> bool:
        """Return True if the processes should get a stop signal now, for the first time or again."""
        now = time.monotonic()
        if not self.received or now - self._last < SECONDS_BETWEEN_STOP_SIGNALS:
            return False
        self._last = now
        return True


class _Ranks:
    """The processes of a training.

    Args:
        controller: process id of submitit's controller, or of the shell that starts it.
        results: the file of each rank that submitit writes before the rank ends by itself.
    """

    def __init__(self, controller: int, results: list[Path]) -> None:
        self._controller = controller
        self._results = results
        self._running: dict[int, psutil.Process] = {}
        self._known: set[int] = set()

    def killed(self) -> list[int]:
        """Return the ranks that have ended since the last call without a result. They may have reported a failure."""
        if len(self._known) < len(self._results):
            self._find()
        ended = [rank for rank, process in self._running.items() if _has_ended(process)]
        for rank in ended:
            del self._running[rank]
        return [rank for rank in ended if not self._results[rank].exists()]

    def _find(self) -> None:
        import psutil

        name = "SUBMITIT_LOCAL_GLOBALID"
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self._controller).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    parent, rank = process.parent(), process.environ().get(name)
                    # Processes that a rank starts inherit its environment, so the parent must be without a rank.
                    if rank is None or parent is None or name in parent.environ() or int(rank) in self._known:
                        continue
                    self._known.add(int(rank))
                    self._running[int(rank)] = process


def _has_ended(process: psutil.Process) -> bool:
    import psutil

    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class _SurvivingRanks:
    """Surviving ranks after one rank of a training failed."""

    def __init__(self, run: RunFolder, attempt: Attempt) -> None:
        self._run, self._attempt = run, attempt
        self._failed_at: float | None = None

    def exist(self) -> bool:
        """Return True if a rank failed."""
        if self._failed_at is None and attempt_outcome(self._run.path, self._attempt).cause:
            self._failed_at = time.monotonic()
        return self._failed_at is not None

    def is_overdue(self) -> bool:
        """Return True if a rank failed and the others have not ended within the grace period."""
        return self.exist() and time.monotonic() - (self._failed_at or 0.0) > SURVIVOR_GRACE_SECONDS
