"""Run a stage on this machine: in this process, or in several through submitit's local executor."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from lmrc.common import threads
from lmrc.common.errors import ConfigError, UserError
from lmrc.common.exit_codes import Failed, Interrupted
from lmrc.config.schema import ClusterOptions
from lmrc.launcher.environment_variables import variables
from lmrc.launcher.run_stage import run_attempt
from lmrc.launcher.slurm.follow_log import follow
from lmrc.launcher.slurm.job import Job
from lmrc.launcher.stages import Stage, StageConfig, gpus_per_process
from lmrc.runs.events import History
from lmrc.runs.failures import Attempt, attempt_outcome
from lmrc.runs.run_folder import RunFolder
from lmrc.runs.signals import SignalListener

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
    # Workers of an inference continue if another one fails.
    survivors = _SurvivingRanks(run, attempt) if stage.trains else None
    with _StopSignals() as stops:

        def running() -> bool:
            if stops.is_due():
                controller.send_signal(signal.SIGTERM)
            if survivors is not None and survivors.is_overdue():
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
    if outcome.is_user_error:
        raise UserError(outcome.cause)
    if stopped and not outcome.cause:
        raise Interrupted("stopped; the same command resumes")
    job = attempt.job.removeprefix("local-")
    logs = run.path / "log" / f"{job}_*_log.err"
    raise Failed(f"{outcome.cause or f'one of {processes} processes died'}; their logs are in {logs}")


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


class _SurvivingRanks:
    """Surviving ranks after one rank of a training failed."""

    def __init__(self, run: RunFolder, attempt: Attempt) -> None:
        self._run, self._attempt = run, attempt
        self._failed_at: float | None = None

    def is_overdue(self) -> bool:
        """Return True if a rank failed and the others have not ended within the grace period."""
        if self._failed_at is None and attempt_outcome(self._run.path, self._attempt).cause:
            self._failed_at = time.monotonic()
        return self._failed_at is not None and time.monotonic() - self._failed_at > SURVIVOR_GRACE_SECONDS
