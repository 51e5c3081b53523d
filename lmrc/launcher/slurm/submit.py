"""Submitting a stage to SLURM through submitit: one task a GPU; of an inference, one array task a worker."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lmrc.common import threads
from lmrc.common.errors import ConfigError, RunError
from lmrc.config.schema import ClusterOptions
from lmrc.launcher.environment_variables import variables
from lmrc.launcher.slurm import code_snapshot as snapshot
from lmrc.launcher.slurm import commands as slurm
from lmrc.launcher.slurm.job import Job
from lmrc.launcher.stages import Stage, StageConfig, gpus_per_process
from lmrc.runs.events import History
from lmrc.runs.run_folder import RunFolder

# SLURM's default MaxArraySize.
MAX_ARRAY_SIZE = 1001
# Options of sbatch that the launcher's own work rests on, each with the option of ours to give instead.
KEPT = {
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
    """Return the GPUs per node of options that `allocate` has completed."""
    return processes(options) // (options.nodes or 1)


def processes(options: ClusterOptions) -> int:
    """Return the GPUs in all, the ranks of a training, of options that `allocate` has completed."""
    if options.gpus is None:
        raise ValueError("the number of GPUs is not known: allocate() completes the options first")
    return options.gpus


def workers(config: StageConfig) -> int:
    """Return the number of workers of an inference. Raises ConfigError if the GPUs do not divide among them."""
    total, each = processes(config.cluster), gpus_per_process(config)
    if total % each:
        raise ConfigError(f"--gpus {total} does not divide by decode.gpus_per_worker {each}: give a multiple")
    return total // each


def setup_lines(options: ClusterOptions, code: Path) -> list[str]:
    """Shell lines before Python: the site's own, then what the config names; the code is that of the folder `code`."""
    exports = {"PYTHONPATH": f"{code}${{PYTHONPATH:+:$PYTHONPATH}}", **variables(options)}
    # Double quotes: $VARIABLES are the node's.
    # python -m looks into the working folder first: the snapshot, not the checkout that the user may be editing.
    enter = f"cd {shlex.quote(str(code))}"
    exported = (f'export {name}="{value}"' for name, value in exports.items())
    return [*options.setup.strip().splitlines(), *exported, enter]


def parameters(stage: Stage, config: StageConfig, dependency: str | None = None) -> dict[str, Any]:
    """Return what submitit's SlurmExecutor is given.

    Raises:
        ConfigError: an option of `cluster.sbatch` is one that the launcher must set itself, or is given twice.
    """
    options, run = config.cluster, RunFolder.of(config.run).path
    tasks, nodes = (gpus_per_node(options), options.nodes or 1) if stage.trains else (1, 1)
    on_gpus, gpus = stage.run is None, gpus_per_process(config)
    cpus = options.sbatch.get("cpus_per_task") or options.cpus_per_gpu * gpus
    again = [
        shlex.quote(sys.executable),
        "-m",
        "lmrc.launcher.slurm.requeue",
        shlex.quote(str(run.resolve())),
        "$status",
    ]
    ours: dict[str, Any] = {
        "job_name": f"lmrc-{config.run.name}",
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
        # submitit names one that nobody asked for, and some sites refuse it.
        "wckey": None,
    }
    more: dict[str, Any] = {"requeue": True}
    if dependency is not None:
        # Otherwise a job whose predecessor failed waits for ever.
        more["kill_on_invalid_dep"] = "yes"
    if on_gpus:
        more |= _gpu_request(options, tasks * gpus, nodes)
    _override(ours, more, options, tasks * gpus if on_gpus else None)
    return {
        **ours,
        "signal_delay_s": options.signal_delay,
        "array_parallelism": options.max_running or (workers(config) if stage.infer is not None else 1),
        "stderr_to_stdout": True,
        # One rank that ends in an error ends all. From SLURM 22.05 to 23.02 srun does not inherit the cores per task.
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={cpus}"],
        # A preempted job's script must live as long as its processes need to save.
        "setup": [*setup_lines(options, run.resolve() / "code"), "trap : TERM USR2"],
        "teardown": [
            "status=$?",
            f"[ $status -eq 0 ] || {' '.join(again)} {options.max_requeues}",
            "exit $status",
        ],
        "additional_parameters": more,
    }


def _gpu_request(options: ClusterOptions, per_node: int, nodes: int) -> dict[str, str]:
    """Return the option of sbatch by which the site wants to be asked for GPUs."""
    kind = f"{options.gpu_type}:" if options.gpu_type else ""
    if options.gpu_request == "gres":
        return {"gres": f"gpu:{kind}{per_node}"}
    if options.gpu_request == "gpus":
        return {"gpus": f"{kind}{per_node * nodes}"}
    if options.gpu_request == "none":
        return {}
    return {"gpus_per_node": f"{kind}{per_node}"}


def _override(ours: dict[str, Any], more: dict[str, Any], options: ClusterOptions, per_node: int | None) -> None:
    """Put the options of `cluster.sbatch` in the place of our own of the same name, in whatever spelling."""
    for name, value in options.sbatch.items():
        shown = name.replace("_", "-")
        if name in KEPT:
            raise ConfigError(f"cluster.sbatch: {shown} is set by the launcher: give {KEPT[name]}")
        if name in options.model_fields_set and getattr(options, name, None) is not None:
            raise ConfigError(f"{shown} is given twice, as cluster.{name} and in cluster.sbatch: give one of them")
        if name == "no_requeue":
            more.pop("requeue")
        more.pop(name, None)
        if name in ours:
            ours[name] = None
        if value is not None:
            more[name] = value
    if per_node is not None:
        _check_gpus({name: str(more[name]) for name in GPU_OPTIONS if name in more}, options, per_node)


def _check_gpus(asked: dict[str, str], options: ClusterOptions, per_node: int) -> None:
    """Raise ConfigError if `asked`, the options that ask for GPUs, contradict each other or the number of tasks."""
    if not asked and options.mem_per_gpu:
        raise ConfigError("cluster.mem_per_gpu needs a GPU that is asked for: give --sbatch 'mem=…', memory per node")
    if "gpus_per_node" in asked and "gpu" in asked.get("gres", ""):
        raise ConfigError(
            f"cluster.sbatch: gres={asked['gres']} stands beside gpus-per-node={asked['gpus_per_node']}: give "
            "--gpu-request gres, and the type of GPU with --gpu-type"
        )
    for name in ("gpus_per_node", "gres"):
        count = re.search(r"(?:^|gpu:)(?:[\w.-]+:)?(\d+)$", asked.get(name, ""))
        if count and int(count[1]) != per_node:
            raise ConfigError(
                f"cluster.sbatch: {name.replace('_', '-')}={asked[name]}, but the job has {per_node} GPUs per node: "
                "give the number with --gpus and --nodes, and the type with --gpu-type"
            )


def sbatch_script(stage: Stage, config: StageConfig) -> str:
    """The sbatch script that would be submitted, for --dry-run."""
    from submitit.slurm import slurm as of_submitit

    folder = RunFolder.of(config.run).path / "log"
    count = None if stage.infer is None else workers(config)
    script: str = of_submitit._make_sbatch_string(
        command="python -u -m submitit.core._submit", folder=folder, map_count=count, **parameters(stage, config)
    )
    return script


def active_jobs(folder: Path) -> list[slurm.SlurmJob]:
    """The jobs (of arrays: tasks) that were submitted for the run and still wait or run. Raises SlurmError."""
    submitted = [str(event["job"]) for event in History(folder).read() if event["event"] == "submitted"]
    return [job for job in slurm.jobs(submitted) if job.is_active]


def running_job(folder: Path) -> slurm.SlurmJob | None:
    """The first of them, or None."""
    try:
        return next(iter(active_jobs(folder)), None)
    except slurm.SlurmError:
        return None  # a controller that does not answer will not take the job either


def submit(stage: Stage, config: StageConfig, after: Sequence[str] = ()) -> list[str]:
    """Submit the stage, to start once `after` holds, such as afterok:12. Returns the ids of its jobs.

    Raises RunError where a job of this training or step waits or runs already, or SLURM refuses.
    """
    import submitit
    from submitit.core.utils import FailedJobError

    run = RunFolder.of(config.run)
    present = running_job(run.path) if stage.infer is None else None
    if present is not None:
        raise RunError(
            f"{run.path} is {present.state.lower()} as SLURM job {present.id} already: look at it with "
            f"lmrc status {run.path}, or cancel it with scancel {present.id} first"
        )
    snapshot.take(run.path)
    executor = submitit.SlurmExecutor(folder=run.path / "log", max_num_timeout=config.cluster.max_requeues)
    executor.update_parameters(**parameters(stage, config, ",".join(after) or None))
    made = []
    try:
        with _outside_of_jobs():
            if stage.infer is None:
                made.append(str(executor.submit(Job(stage.name, config)).job_id))
            else:
                made += _submit_workers(executor, stage, config)
    except (FailedJobError, slurm.SlurmError) as error:
        raise RunError(f"SLURM refused the job: {_said(error)}") from None
    finally:
        for identifier in made:
            History(run.path).add("submitted", job=identifier)
    return made


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide the variables of the job that this process may be part of, and the threads chosen for this machine.

    SLURM_CONF stays.
    """
    import submitit

    configuration = os.environ.get("SLURM_CONF")
    with submitit.helpers.clean_env(), threads.unconfigured():
        if configuration is not None:
            os.environ["SLURM_CONF"] = configuration
        yield


def _submit_workers(executor: Any, stage: Stage, config: StageConfig) -> list[str]:
    """Arrays of workers, as many as the site's limit on an array's size makes necessary."""
    total = workers(config)
    largest = int(slurm.setting("MaxArraySize") or MAX_ARRAY_SIZE) - 1  # the greatest index is one less
    arrays = []
    for first in range(0, total, largest):
        size = min(largest, total - first)
        cap = -(-(config.cluster.max_running or total) * size // total)
        executor.update_parameters(array_parallelism=cap)
        with executor.batch():
            jobs = [executor.submit(Job(stage.name, config)) for _ in range(size)]
        arrays.append(str(jobs[0].job_id).partition("_")[0])
    return arrays


def _said(error: Exception) -> str:
    """The line of sbatch's own complaint."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "error" in line.lower()), lines[-1] if lines else repr(error))
