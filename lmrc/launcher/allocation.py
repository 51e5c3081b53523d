"""Nodes and GPUs of a SLURM job: as given, or derived from the nodes of the partition."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from lmrc.common.errors import ConfigError
from lmrc.config.schema import ClusterOptions
from lmrc.launcher.slurm import commands as slurm

# sbatch would prefer these over the options of a script, so they are read here and hidden from sbatch (by submitit).
EXPORTED = {
    "SBATCH_PARTITION": "partition",
    "SBATCH_ACCOUNT": "account",
    "SBATCH_QOS": "qos",
    "SBATCH_CONSTRAINT": "constraint",
}
EXPORTED_SBATCH = {
    "SBATCH_TIMELIMIT": "time",
    "SBATCH_MEM_PER_NODE": "mem",
    "SBATCH_MEM_PER_CPU": "mem_per_cpu",
    "SBATCH_RESERVATION": "reservation",
    "SBATCH_LICENSES": "licenses",
    "SBATCH_GRES": "gres",
    "SBATCH_EXCLUSIVE": "exclusive",
    "SBATCH_CLUSTERS": "clusters",
    "SBATCH_GPU_BIND": "gpu_bind",
    "SBATCH_HINT": "hint",
    "SBATCH_SWITCHES": "switches",
    "SBATCH_WCKEY": "wckey",
}
# Nodes of a partition, as `slurm.nodes` returns them.
Nodes = Sequence[slurm.Node]


@dataclass(frozen=True)
class Allocation:
    """Nodes and GPUs per node of a job, with one task per GPU."""

    nodes: int
    gpus_per_node: int

    @property
    def gpus(self) -> int:
        """Return the total number of GPUs."""
        return self.nodes * self.gpus_per_node


def with_exported(options: ClusterOptions) -> tuple[ClusterOptions, list[str]]:
    """Use the exported SBATCH_ variables as defaults of the options, as sbatch does.

    Returns:
        The options, and a sentence per variable: the option that it sets, or that it is ignored.
    """
    chosen: dict[str, str] = {}
    sbatch = dict(options.sbatch)
    notes = []
    for variable in sorted(name for name in os.environ if name.startswith("SBATCH_")):
        value = os.environ[variable]
        name = EXPORTED.get(variable) or EXPORTED_SBATCH.get(variable)
        shown = f"{variable}={value} in the environment"
        if name is None:
            notes.append(f"{shown} is ignored: give it as --sbatch 'OPTION=VALUE'")
        elif name in sbatch or (name in options.model_fields_set and getattr(options, name) is not None):
            notes.append(f"{shown} is overridden by the option {name.replace('_', '-')}")
        else:
            option = f"{name.replace('_', '-')} {value}".strip()
            notes.append(f"{option} comes from {variable} in the environment")
            if variable in EXPORTED:
                chosen[name] = value
            else:
                sbatch[name] = value or True
    return options.model_copy(update={**chosen, "sbatch": sbatch}), notes


def allocate(options: ClusterOptions) -> ClusterOptions:
    """Return the options with the numbers of nodes and GPUs that the job will have.

    The GPUs per node are read from sinfo unless both numbers are given.

    Raises:
        ConfigError: the GPUs do not divide by the nodes, or the number of GPUs per node is unknown.
    """
    if options.gpus is not None and options.nodes is not None:
        allocation = Allocation(options.nodes, _divide(options.gpus, options.nodes))
    elif options.gpus is not None:
        allocation = _nodes_for(options.gpus, options)
    else:
        allocation = _whole_nodes(options.nodes or 1, options)
    return options.model_copy(update={"nodes": allocation.nodes, "gpus": allocation.gpus})


def _divide(gpus: int, nodes: int) -> int:
    if gpus % nodes:
        raise ConfigError(f"--gpus {gpus} is the total and does not divide by --nodes {nodes}: give a multiple")
    return gpus // nodes


def partition_nodes(options: ClusterOptions) -> Nodes:
    """Return the nodes of the partition that satisfy `exclude` and `constraint`.

    A constraint is applied only if it is the name of a single feature.

    Raises:
        SlurmError: SLURM does not answer.
    """
    partition = options.sbatch.get("partition", options.partition)
    nodes = slurm.nodes(partition if isinstance(partition, str) else None)
    if options.exclude:
        excluded = set(slurm.hostnames(options.exclude))
        nodes = [node for node in nodes if node.name not in excluded]
    if options.constraint and any(options.constraint in node.features for node in nodes):
        nodes = [node for node in nodes if options.constraint in node.features]
    return nodes


def largest_share(nodes: Nodes, count: int, gpu_type: str | None) -> int:
    """Return the largest number of GPUs that each of `count` nodes has; 0 if there are fewer nodes."""
    counts = sorted((node.count(gpu_type) for node in nodes), reverse=True)
    return counts[count - 1] if len(counts) >= count else 0


def _nodes_for(gpus: int, options: ClusterOptions) -> Allocation:
    """Return the fewest nodes with equal shares that have `gpus` GPUs; one node if that is unknown."""
    try:
        nodes = partition_nodes(options)
    except slurm.SlurmError:
        return Allocation(1, gpus)  # the pre-flight reports that SLURM does not answer
    for count in range(1, gpus + 1):
        if gpus % count == 0 and largest_share(nodes, count, options.gpu_type) >= gpus // count:
            return Allocation(count, gpus // count)
    return Allocation(1, gpus)  # the pre-flight reports that the partition has fewer


def _whole_nodes(nodes: int, options: ClusterOptions) -> Allocation:
    try:
        share = largest_share(partition_nodes(options), nodes, options.gpu_type)
    except slurm.SlurmError as error:
        raise ConfigError(
            f"cannot ask SLURM for the number of GPUs per node ({error}): give --where local to run on this machine, "
            "or --gpus, the total number of GPUs"
        ) from None
    if not share:
        where = f"partition {options.partition}" if options.partition else "the default partition"
        kind = f"{options.gpu_type} GPUs" if options.gpu_type else "GPUs"
        raise ConfigError(
            f"{where} has no {nodes} node{'s' if nodes > 1 else ''} with {kind} that SLURM knows of: give another "
            "--partition (lmrc doctor lists them), or give --gpus, the total number of GPUs, and --gpu-request none "
            "if the site assigns GPUs without a request"
        )
    return Allocation(nodes, share)
