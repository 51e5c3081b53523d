"""Running a stage on this machine: in this process, or in several that submitit's local executor starts and logs."""

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

SECONDS_BETWEEN_LOOKS = 0.2
# A stop is asked for again and again: a process that is still importing does not listen yet.
SECONDS_BETWEEN_REQUESTS = 2.0
# Where a rank has failed, one that hangs stays: submitit would wait for it until cluster.time.
SECONDS_FOR_THE_REST = 10.0


def processes_here(stage: Stage, options: ClusterOptions, each: int = 1) -> tuple[int, str]:
    """How many processes of `each` GPUs this machine runs of those asked for, and the sentence that says so.

    Raises ConfigError where there are too few for one.
    """
    import torch

    devices, cores = torch.cuda.device_count(), threads.cpus()
    kind, most = ("GPU", devices) if devices else ("CPU core", cores)
    if each > 1 and min(options.gpus or devices, devices) < each:
        raise ConfigError(
            f"decode.gpus_per_worker is {each}, but this machine gives {min(options.gpus or devices, devices)}: "
            "lower it, or ask for more --gpus"
        )
    wanted = (each if devices else 1) if options.where == "here" else options.gpus
    # On the CPU a single process uses all cores, so that more of them is a wish, not the default.
    count = min(wanted or (devices or 1), most)
    asked = (
        f" ({wanted} asked for; this machine has {most} {kind}{'s' if most > 1 else ''})"
        if wanted and wanted > most
        else ""
    )
    if devices:
        count //= each
        share = f"{each} GPUs each" if each > 1 else "one a GPU"
        return count, f"{count} process{'es' if count > 1 else ''}, {share}{asked}"
    # Workers of an inference do not talk to each other.
    several = "gloo processes" if stage.trains else "processes"
    return count, f"{count} {several if count > 1 else 'process'} on the CPU{asked}"


def run_here(stage: Stage, config: StageConfig) -> dict[str, Any] | None:
    """Run the stage in this process. Returns its result; None where another worker's process makes it."""
    return run_attempt(stage, config, Attempt(f"local-{os.getpid()}"))


def run_processes(stage: Stage, config: StageConfig, processes: int) -> dict[str, Any] | None:
    """Run the stage in `processes` new ones, showing rank 0's output. Returns its result as `run_here` does.

    Raises UserError where one of them did, Interrupted after they saved on a signal, Failed where one died.
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
    # Workers of an inference go on without each other.
    rest = _SurvivingRanks(run, attempt) if stage.trains else None
    with _StopSignals() as stops:

        def running() -> bool:
            if stops.is_due():
                controller.send_signal(signal.SIGTERM)
            if rest is not None and rest.is_overdue():
                for process in psutil.Process(controller.pid).children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
            return controller.poll() is None

        follow(job.paths.stdout, running, SECONDS_BETWEEN_LOOKS)
    return _outcome(run, attempt, processes, stops.asked)


@contextlib.contextmanager
def _environment(options: ClusterOptions, processes: int) -> Iterator[None]:
    """Set what the processes inherit: the config's variables, OMP_NUM_THREADS, and SIGINT ignored.

    submitit's controller would kill its processes a second after Ctrl-C; they listen themselves once they can save.
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
    end = attempt_outcome(run.path, attempt)
    if end.is_user_error:
        raise UserError(end.cause)
    if stopped and not end.cause:
        raise Interrupted("stopped; the same command resumes")
    job = attempt.job.removeprefix("local-")
    logs = run.path / "log" / f"{job}_*_log.err"
    raise Failed(f"{end.cause or f'one of {processes} processes died'}; what they said is in {logs}")


class _StopSignals(SignalListener):
    """Signals to the launcher while its processes run: they are asked to save and end."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = False
        self._last = 0.0

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def is_due(self) -> bool:
        """Whether the processes are to be asked (again) now."""
        now = time.monotonic()
        if not self.asked or now - self._last < SECONDS_BETWEEN_REQUESTS:
            return False
        self._last = now
        return True


class _SurvivingRanks:
    """The processes that are left where one of a training has failed."""

    def __init__(self, run: RunFolder, attempt: Attempt) -> None:
        self._run, self._attempt = run, attempt
        self._since: float | None = None

    def is_overdue(self) -> bool:
        """Whether they have had their time to end by themselves."""
        if self._since is None and attempt_outcome(self._run.path, self._attempt).cause:
            self._since = time.monotonic()
        return self._since is not None and time.monotonic() - self._since > SECONDS_FOR_THE_REST
