"""Submit a stage to SLURM through submitit: one task per GPU, or one array task per inference worker."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lmrc.common import threads
from lmrc.common.errors import ConfigError, RunError
from lmrc.config.schema import ClusterOptions
from lmrc.launcher.environment_variables import variables
from lmrc.launcher.slurm import commands as slurm
from lmrc.launcher.slurm import job_chain
from lmrc.launcher.slurm.code_snapshot import take_snapshot
from lmrc.launcher.slurm.container import container_of, folder_lines
from lmrc.launcher.slurm.job import Job, ends_by_script
from lmrc.launcher.stages import Stage, StageConfig, gpus_per_process
from lmrc.runs.events import History
from lmrc.runs.run_folder import RunFolder

logger = logging.getLogger(__name__)

# SLURM's default MaxArraySize.
MAX_ARRAY_SIZE = 1001
# sbatch options that the launcher must set itself, each with the option to give instead.
RESERVED_OPTIONS = {
    "nodes": "--nodes",
    "ntasks": "--gpus, as there is one task per GPU",
    "ntasks_per_node": "--gpus and --nodes, as there is one task per GPU",
    "array": "--gpus, as there is one worker per GPU, and --max-running",
    "signal": "--signal-delay",
    "dependency": "launch/pipeline.py, which sets it",
    "output": "--run.folder, as the log is in the run folder",
    "error": "--run.folder, as the log is in the run folder",
    "open_mode": "nothing: a job that comes back appends to its log",
    "wrap": "--setup for shell lines before Python",
}
GPU_OPTIONS = ("gpus_per_node", "gres", "gpus", "gpus_per_task")


def gpus_per_node(options: ClusterOptions) -> int:
    """Return the GPUs per node. The options must come from `allocate`."""
    return processes(options) // (options.nodes or 1)


def processes(options: ClusterOptions) -> int:
    """Return the total number of GPUs, which is the world size. The options must come from `allocate`."""
    if options.gpus is None:
        raise ValueError("the number of GPUs is not known: allocate() completes the options first")
    return options.gpus


def workers(config: StageConfig) -> int:
    """Return the number of workers of an inference.

    Raises:
        ConfigError: the GPUs do not divide by the GPUs per worker.
    """
    total, per_worker = processes(config.cluster), gpus_per_process(config)
    if total % per_worker:
        raise ConfigError(f"--gpus {total} does not divide by decode.gpus_per_worker {per_worker}: give a multiple")
    return total // per_worker


def setup_lines(options: ClusterOptions, code: Path) -> list[str]:
    """Return the shell lines before Python: the site's setup, exported variables, and cd into the code snapshot."""
    exports = {"PYTHONPATH": f"{code}${{PYTHONPATH:+:$PYTHONPATH}}", **variables(options)}
    # In double quotes, so that $VARIABLES are expanded on the node.
    # python -m imports from the working folder first, which must be the snapshot and not the user's checkout.
    enter = f"cd {shlex.quote(str(code))}"
    exported = (f'export {name}="{value}"' for name, value in exports.items())
    return [*options.setup.strip().splitlines(), *exported, enter]


def parameters(stage: Stage, config: StageConfig, dependency: str | None = None) -> dict[str, Any]:
    """Return the parameters of submitit's SlurmExecutor.

    Raises:
        ConfigError: an option of `cluster.sbatch` is reserved for the launcher, or is given twice.
    """
    options, run = config.cluster, RunFolder.of(config.run).path
    tasks, nodes = (gpus_per_node(options), options.nodes or 1) if stage.trains else (1, 1)
    on_gpus, gpus = stage.run is None, gpus_per_process(config)
    cpus = options.sbatch.get("cpus_per_task", options.cpus_per_gpu * gpus)
    python, folder = shlex.quote(sys.executable), shlex.quote(str(run.resolve()))
    ended = f"{python} -m lmrc.launcher.slurm.requeue {folder} $status {options.max_requeues}"
    begins, is_chain, code = [], options.requeue == "chain", run.resolve() / "code"
    container = container_of(config, code, on_gpus)
    enters = [*folder_lines(options), *container.setup_lines()] if container is not None else []
    if is_chain:
        begins = [f"{python} -m lmrc.launcher.slurm.job_chain {folder}; [ $? -ne {job_chain.END_OF_CHAIN} ] || exit 0"]
    ours: dict[str, Any] = {
        "job_name": job_chain.job_name(config.run.name, run) if is_chain else f"lmrc-{config.run.name}",
        "nodes": nodes,
        "ntasks_per_node": tasks,
        "cpus_per_task": cpus,
        "time": options.time,
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "exclude": options.exclude,
        "mem_per_gpu": options.mem_per_gpu if on_gpus else None,
        "dependency": dependency,
        # submitit sets one by default, and some sites refuse it.
        "wckey": None,
    }
    more: dict[str, Any] = {"no_requeue" if options.requeue in ("chain", "never") else "requeue": True}
    if dependency not in (None, job_chain.SINGLETON):
        # Otherwise a job whose dependency failed stays queued forever.
        more["kill_on_invalid_dep"] = "yes"
    if on_gpus:
        more |= _gpu_request(options, tasks * gpus, nodes)
    _override(ours, more, options, tasks * gpus if on_gpus else None)
    return {
        **ours,
        "signal_delay_s": options.signal_delay,
        "array_parallelism": options.max_running or (workers(config) if stage.infer is not None else 1),
        "stderr_to_stdout": True,
        # A failed rank ends all others. In SLURM 22.05 to 23.02 srun does not inherit --cpus-per-task.
        "srun_args": ["--kill-on-bad-exit=1", *([f"--cpus-per-task={cpus}"] if cpus else [])],
        # The batch script must outlive its processes, which save after a signal.
        "setup": [*setup_lines(options, code), *enters, "trap : TERM USR2", *begins],
        "teardown": [
            "status=$?",
            ended if ends_by_script(options) else f"[ $status -eq 0 ] || {ended}",
            "exit $status",
        ],
        "additional_parameters": more,
    }


def _gpu_request(options: ClusterOptions, per_node: int, nodes: int) -> dict[str, str]:
    """Return the sbatch option that requests GPUs in the form the site wants (`cluster.gpu_request`)."""
    kind = f"{options.gpu_type}:" if options.gpu_type else ""
    if options.gpu_request == "gres":
        return {"gres": f"gpu:{kind}{per_node}"}
    if options.gpu_request == "gpus":
        return {"gpus": f"{kind}{per_node * nodes}"}
    if options.gpu_request == "none":
        return {}
    return {"gpus_per_node": f"{kind}{per_node}"}


def _override(ours: dict[str, Any], more: dict[str, Any], options: ClusterOptions, per_node: int | None) -> None:
    """Replace our options by those of `cluster.sbatch` with the same name.

    Raises:
        ConfigError: an option is reserved for the launcher, is given twice, or contradicts the GPU request.
    """
    refuse_reserved(options)
    for name, value in options.sbatch.items():
        if name == "no_requeue":
            more.pop("requeue", None)
        if name == "requeue":
            more.pop("no_requeue", None)
        more.pop(name, None)
        if name in ours:
            ours[name] = None
        if value is not None:
            more[name] = value
    if per_node is not None:
        _check_gpus({name: str(more[name]) for name in GPU_OPTIONS if name in more}, options, per_node)


def refuse_reserved(options: ClusterOptions) -> None:
    """Check the names in `cluster.sbatch`.

    Raises:
        ConfigError: options are reserved for the launcher or are given twice. The message lists all of them.
    """
    problems = []
    for name in options.sbatch:
        shown = name.replace("_", "-")
        if name in RESERVED_OPTIONS:
            problems.append(f"{shown} is set by the launcher: give {RESERVED_OPTIONS[name]}")
        # A config.yaml gives every option, so a default is no sign of two wishes.
        elif name in options.model_fields_set and getattr(options, name) not in (None, _default(name)):
            problems.append(f"{shown} is given twice, as cluster.{name} and in cluster.sbatch: give one of them")
    if problems:
        raise ConfigError(f"cluster.sbatch: {'; '.join(problems)}")


def _default(name: str) -> Any:
    return ClusterOptions.model_fields[name].default


def _check_gpus(requests: dict[str, str], options: ClusterOptions, per_node: int) -> None:
    """Check that the options that request GPUs agree with each other and with the number of tasks."""
    if not requests and options.mem_per_gpu:
        raise ConfigError(
            "cluster.mem_per_gpu needs a GPU request: give --sbatch 'mem=…', the memory per node, instead"
        )
    if "gpus_per_node" in requests and "gpu" in requests.get("gres", ""):
        raise ConfigError(
            f"cluster.sbatch: gres={requests['gres']} conflicts with gpus-per-node={requests['gpus_per_node']}: give "
            "--gpu-request gres, and the type of GPU with --gpu-type"
        )
    for name in ("gpus_per_node", "gres"):
        count = re.search(r"(?:^|gpu:)(?:[\w.-]+:)?(\d+)$", requests.get(name, ""))
        if count and int(count[1]) != per_node:
            raise ConfigError(
                f"cluster.sbatch: {name.replace('_', '-')}={requests[name]}, but the job has {per_node} GPUs per node: "
                "give the number with --gpus and --nodes, and the type with --gpu-type"
            )


def python_command(stage: Stage, config: StageConfig) -> str | None:
    """Return the shell command for Python in the container of the job; None without a container."""
    container = container_of(config, RunFolder.of(config.run).path.resolve() / "code", on_gpus=stage.run is None)
    return None if container is None else container.command()


def sbatch_script(stage: Stage, config: StageConfig) -> str:
    """Return the sbatch script of the stage, for --dry-run and the pre-flight."""
    from submitit.slurm import slurm as submitit_slurm

    folder = RunFolder.of(config.run).path / "log"
    count = None if stage.infer is None else workers(config)
    python = python_command(stage, config) or "python"
    script: str = submitit_slurm._make_sbatch_string(
        command=f"{python} -u -m submitit.core._submit", folder=folder, map_count=count, **parameters(stage, config)
    )
    return script


def active_jobs(folder: Path) -> list[slurm.SlurmJob]:
    """Return the queued and running jobs of the run in the order of submission, with one entry per array task.

    Raises:
        SlurmError: SLURM does not answer.
    """
    submitted = [str(event["job"]) for event in History(folder).read() if event["event"] == "submitted"]
    active = [job for job in slurm.jobs(submitted) if job.is_active]
    # squeue lists pending jobs first, but those of a chain come after the running one.
    return sorted(active, key=lambda job: submitted.index(job.id.partition("_")[0]))


def running_job(folder: Path) -> slurm.SlurmJob | None:
    """Return the first queued or running job of the run; None without one or if SLURM does not answer."""
    try:
        return next(iter(active_jobs(folder)), None)
    except slurm.SlurmError:
        return None  # a controller that does not answer will not take the job either


def submit(stage: Stage, config: StageConfig, after: Sequence[str] = (), after_runs: Sequence[Path] = ()) -> list[str]:
    """Submit the stage. Return its job ids, those of a chain in order. A chain may be shorter than wished.

    Args:
        after: sbatch dependencies, such as afterok:12.
        after_runs: runs that must be finished before a chain begins.

    Raises:
        RunError: the run already has a queued or running job, or SLURM refuses this one.
    """
    import submitit
    from submitit.core.utils import FailedJobError

    run = RunFolder.of(config.run)
    active = running_job(run.path) if stage.infer is None else None
    if active is not None:
        raise RunError(
            f"{run.path} is already {active.state.lower()} as SLURM job {active.id}: see lmrc status {run.path}, "
            f"or cancel it first with scancel {' '.join(_submitted_with(run.path, active.id))}"
        )
    take_snapshot(run.path)
    executor = submitit.SlurmExecutor(
        folder=run.path / "log", max_num_timeout=config.cluster.max_requeues, python=python_command(stage, config)
    )
    total = config.cluster.chain_jobs if config.cluster.requeue == "chain" else 1
    name, jobs = uuid.uuid4().hex[:12], []
    for number in range(1, total + 1):
        dependency = ",".join([*after, *([job_chain.SINGLETON] if number > 1 else [])]) or None
        executor.update_parameters(**parameters(stage, config, dependency))
        submitted: list[str] = []
        try:
            with _outside_of_jobs():
                if stage.infer is None:
                    submitted.append(str(executor.submit(Job(stage.name, config)).job_id))
                else:
                    submitted += _submit_workers(executor, stage, config)
        except (FailedJobError, slurm.SlurmError) as error:
            if number == 1:
                raise RunError(f"SLURM refused the job: {_error_line(error)}") from None
            logger.warning(f"the chain has {number - 1} jobs: SLURM refused the next one ({_error_line(error)})")
            break
        finally:
            more = _chain_fields(name, number, total, after_runs)
            if config.cluster.requeue == "never":
                more = {"requeue": "never"}
            for identifier in submitted:
                History(run.path).add("submitted", job=identifier, **more)
            jobs += submitted
    return jobs


def _chain_fields(name: str, number: int, total: int, after: Sequence[Path]) -> dict[str, Any]:
    """Return the fields of a `submitted` event that describe the chain; none without a chain."""
    if total == 1:
        return {}
    return {"chain": name, "number": number, "total": total, "after": [str(path.resolve()) for path in after]}


def _submitted_with(folder: Path, job: str) -> list[str]:
    """Return the job and the later jobs of its chain."""
    links = job_chain.find_chain(folder, job)
    return [job, *(links.later if links else ())]


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Remove the SLURM variables of an enclosing job, and our thread settings, from the environment of sbatch."""
    import submitit

    configuration = os.environ.get("SLURM_CONF")
    with submitit.helpers.clean_env(), threads.unconfigured():
        if configuration is not None:
            os.environ["SLURM_CONF"] = configuration
        yield


def _submit_workers(executor: Any, stage: Stage, config: StageConfig) -> list[str]:
    """Submit the workers as one array, or as several if the site's MaxArraySize requires it. Return their ids."""
    total = workers(config)
    largest = int(slurm.read_setting("MaxArraySize") or MAX_ARRAY_SIZE) - 1  # the largest index is MaxArraySize - 1
    arrays: list[str] = []
    for first in range(0, total, largest):
        size = min(largest, total - first)
        max_running = -(-(config.cluster.max_running or total) * size // total)
        executor.update_parameters(array_parallelism=max_running)
        if first and config.cluster.requeue == "chain":
            # Arrays of the same name would wait for each other.
            executor.update_parameters(job_name=f"{executor.parameters['job_name']}-{len(arrays)}")
        with executor.batch():
            jobs = [executor.submit(Job(stage.name, config)) for _ in range(size)]
        arrays.append(str(jobs[0].job_id).partition("_")[0])
    return arrays


def _error_line(error: Exception) -> str:
    """Return the line with sbatch's own error message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "error" in line.lower()), lines[-1] if lines else repr(error))
