"""Pre-flight checks of a job against its partition: GPUs, time limit, requeueing."""

from __future__ import annotations

from collections.abc import Iterator

from lmrc.common.check import Check, missing, ok, warning
from lmrc.common.errors import ConfigError
from lmrc.config.schema import ClusterOptions
from lmrc.launcher.allocation import largest_share, partition_nodes, with_exported
from lmrc.launcher.plan import LaunchPlan
from lmrc.launcher.slurm import commands as slurm
from lmrc.launcher.slurm.submit import gpus_per_node, refuse_reserved, sbatch_script
from lmrc.launcher.stages import gpus_per_process

# Options that only jobs of SLURM read.
SLURM_ONLY = (
    *("partition", "account", "qos", "constraint", "exclude", "mem_per_gpu", "cpus_per_gpu", "gpu_type"),
    *("gpu_request", "sbatch", "max_running", "max_requeues", "requeue", "chain_jobs", "node_check"),
    *("container", "container_mounts"),
)
# Options that are read when processes are started, so not in this one.
NOT_HERE = ("time", "signal_delay", "setup", "interface", "cache_folder", "temporary_folder", "extensions_folder")


def check_site(plan: LaunchPlan) -> Iterator[Check]:
    """Check the options of the job against each other and against the partition."""
    yield from (ok(note) for note in plan.notes)
    try:
        sbatch_script(plan.stage, plan.config)
    except ConfigError as error:
        yield missing(str(error))
    options = plan.config.cluster
    try:
        if plan.stage.run is None and options.gpu_request != "none":
            yield _check_gpus(plan, _where(options))
        yield from _check_limits(options)
    except slurm.SlurmError as error:
        yield _no_answer(error)


def check_site_without_plan(options: ClusterOptions) -> Iterator[Check]:
    """Check the options of the job that do not depend on the numbers of nodes and GPUs, which do not fit together."""
    if options.where not in ("auto", "slurm") or not slurm.is_available():
        return
    options, notes = with_exported(options)
    yield from (ok(note) for note in notes)
    try:
        refuse_reserved(options)
    except ConfigError as error:
        yield missing(str(error))
    try:
        yield from _check_limits(options)
    except slurm.SlurmError as error:
        yield _no_answer(error)


def _no_answer(error: slurm.SlurmError) -> Check:
    return missing(f"SLURM does not answer ({error})", "ask the site; --where local runs the stage on this machine")


def _check_limits(options: ClusterOptions) -> Iterator[Check]:
    """Check the time limit and requeueing.

    Raises:
        SlurmError: SLURM does not answer.
    """
    limit, minutes = slurm.time_limit(_partition(options)), _minutes(options)
    if limit is not None and minutes is not None and minutes > limit:
        yield missing(
            f"the job asks for {minutes} minutes, but {_where(options)} allows {limit}: the job would never start",
            f"give --time {limit} or less: a job that reaches its limit saves and requeues itself",
        )
    if minutes is not None and options.signal_delay >= 60 * minutes:
        yield missing(
            f"cluster.signal_delay is {options.signal_delay} seconds, and the job asks for {minutes} minutes: it "
            "would be stopped and requeued as soon as it starts",
            "give a longer --time, or a shorter --signal-delay",
        )
    if options.requeue == "requeue" and options.max_requeues and slurm.read_setting("JobRequeue") == "0":
        yield warning(
            "the site has JobRequeue=0", "jobs ask for --requeue; if the site refuses that, give --requeue chain"
        )


def check_unused(plan: LaunchPlan) -> Iterator[Check]:
    """Warn of options that are not read because the stage runs on this machine.

    `--gpus` and `--nodes 1` are not reported, so that the commands for a cluster can be tried anywhere.
    """
    options = plan.config.cluster
    unused = _given(options, SLURM_ONLY) + (["cluster.nodes"] if (options.nodes or 1) > 1 else [])
    if unused:
        yield warning(
            f"{', '.join(unused)} {'is' if len(unused) == 1 else 'are'} for SLURM, and {plan.stage.name} runs on this "
            "machine",
            "none needed; --where slurm submits it",
        )
    if plan.executor == "here" and (unused := _given(options, NOT_HERE)):
        yield warning(
            f"{', '.join(unused)} {'has' if len(unused) == 1 else 'have'} no effect: {plan.stage.name} runs in this "
            "process",
            "set it in this shell, or give --where local to start a process",
        )


def _given(options: ClusterOptions, names: tuple[str, ...]) -> list[str]:
    """Return those of the options that were given a value other than the default."""
    fields = ClusterOptions.model_fields
    return [
        f"cluster.{name}"
        for name in names
        if name in options.model_fields_set and getattr(options, name) != fields[name].default
    ]


def _minutes(options: ClusterOptions) -> int | None:
    """Return the minutes that the job asks for; None if the partition's default or no limit applies."""
    asked = options.sbatch.get("time", options.time)
    return (slurm.parse_time(asked) or None) if isinstance(asked, str) else asked


def _partition(options: ClusterOptions) -> str | None:
    partition = options.sbatch.get("partition", options.partition)
    return partition if isinstance(partition, str) else None


def _where(options: ClusterOptions) -> str:
    partition = _partition(options)
    return f"partition {partition}" if partition else "the default partition"


def _check_gpus(plan: LaunchPlan, where: str) -> Check:
    """Check that enough nodes of the partition have the requested GPUs per node."""
    options = plan.config.cluster
    wanted, nodes = (gpus_per_node(options), options.nodes or 1) if plan.stage.trains else (0, 1)
    wanted = wanted or gpus_per_process(plan.config)
    candidates = partition_nodes(options)
    kind = f"{options.gpu_type} GPUs" if options.gpu_type else "GPUs"
    enough = sum(node.count(options.gpu_type) >= wanted for node in candidates)
    if enough >= nodes:
        return ok(f"{where}: {enough} of {len(candidates)} nodes have {wanted} or more {kind}; {plan.description}")
    most = largest_share(candidates, 1, options.gpu_type)
    if not most:
        return missing(
            f"{where} has no {kind} that SLURM knows of",
            "give another --partition (lmrc doctor lists them), or --gpu-request none if the site assigns GPUs without "
            "a request",
        )
    available = f"{enough} node{'' if enough == 1 else 's'} with {wanted} or more {kind}"
    return missing(
        f"{where} has {available}, but {nodes} requested; the largest node has {most}",
        "give --gpus without --nodes, so that the number of nodes is derived from it, or request fewer GPUs",
    )
