"""Submitting a stage to SLURM through submitit: one task a GPU; of an inference, one array task a worker."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lmrc import threads
from lmrc.cluster import slurm, snapshot
from lmrc.cluster.job import Job
from lmrc.cluster.stages import Stage, StageConfig, gpus_per_process
from lmrc.cluster.variables import variables
from lmrc.config import ClusterOptions
from lmrc.errors import ConfigError, RunError
from lmrc.history import History
from lmrc.run import RunFolder

GPUS_PER_NODE = 8
# What SLURM's own default is where a site sets none.
MAX_ARRAY_SIZE = 1001


def gpus_per_node(options: ClusterOptions) -> int:
    """GPUs a node. Raises ConfigError where the total does not divide by the nodes."""
    total = processes(options)
    if total % options.nodes:
        raise ConfigError(
            f"--gpus {total} is the total and does not divide by --nodes {options.nodes}: give a multiple"
        )
    return total // options.nodes


def processes(options: ClusterOptions) -> int:
    """GPUs in all: the ranks of a training."""
    return options.gpus or options.nodes * GPUS_PER_NODE


def workers(config: StageConfig) -> int:
    """The workers of an inference. Raises ConfigError where the GPUs do not divide among them."""
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
    """What submitit's SlurmExecutor is given."""
    options, run = config.cluster, RunFolder.of(config.run).path
    tasks, nodes = (gpus_per_node(options), options.nodes) if stage.trains else (1, 1)
    on_gpus, gpus = stage.run is None, gpus_per_process(config)
    optional = {
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "exclude": options.exclude,
        "mem_per_gpu": options.mem_per_gpu if on_gpus else None,
        "gpus_per_node": tasks * gpus if on_gpus else None,
        "dependency": dependency,
    }
    more: dict[str, Any] = {"requeue": True}
    if dependency is not None:
        # Otherwise a job whose predecessor failed waits for ever.
        more["kill-on-invalid-dep"] = "yes"
    again = [shlex.quote(sys.executable), "-m", "lmrc.cluster.requeue", shlex.quote(str(run.resolve())), "$status"]
    return {
        "job_name": f"lmrc-{config.run.name}",
        "nodes": nodes,
        "ntasks_per_node": tasks,
        "cpus_per_task": options.cpus_per_gpu * gpus,
        "time": options.time,
        "signal_delay_s": options.signal_delay,
        "array_parallelism": options.max_running or workers(config),
        "stderr_to_stdout": True,
        # One rank that ends in an error ends all.
        "srun_args": ["--kill-on-bad-exit=1"],
        # A preempted job's script must live as long as its processes need to save.
        "setup": [*setup_lines(options, run.resolve() / "code"), "trap : TERM USR2"],
        "teardown": [
            "status=$?",
            f"[ $status -eq 0 ] || {' '.join(again)} {options.max_requeues}",
            "exit $status",
        ],
        "additional_parameters": more | {name: value or True for name, value in options.sbatch.items()},
        **{name: value for name, value in optional.items() if value is not None},
    }


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
    with submitit.helpers.clean_env(), threads.as_given():
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
