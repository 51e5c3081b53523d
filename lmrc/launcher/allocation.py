"""How many nodes and GPUs a SLURM job gets: as given, and else as the nodes of the partition have them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from lmrc.common.errors import ConfigError
from lmrc.config.schema import ClusterOptions
from lmrc.launcher.slurm import commands as slurm

# sbatch reads these too, but submitit hides them from it, and sbatch would prefer them over the options of a script.
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
    """What a training asks SLURM for: one task per GPU."""

    nodes: int
    gpus_per_node: int

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return self.nodes * self.gpus_per_node


def with_exported(options: ClusterOptions) -> tuple[ClusterOptions, list[str]]:
    """Take the SBATCH_ variables of the environment as defaults of the options, as sbatch itself would.

    Returns:
        The options, and a sentence for each variable: what it stands for, or that it is ignored.
    """
    chosen: dict[str, str] = {}
    sbatch = dict(options.sbatch)
    said = []
    for variable in sorted(name for name in os.environ if name.startswith("SBATCH_")):
        value = os.environ[variable]
        name = EXPORTED.get(variable) or EXPORTED_SBATCH.get(variable)
        shown = f"{variable}={value} of the environment"
        if name is None:
            said.append(f"{shown} is ignored: give it as --sbatch 'OPTION=VALUE'")
        elif name in sbatch or (name in options.model_fields_set and getattr(options, name) is not None):
            said.append(f"{shown} gives way to the {name.replace('_', '-')} that is given")
        else:
            taken = f"{name.replace('_', '-')} {value}".strip()
            said.append(f"{taken} is taken from {variable} of the environment")
            if variable in EXPORTED:
                chosen[name] = value
            else:
                sbatch[name] = value or True
    return options.model_copy(update={**chosen, "sbatch": sbatch}), said


def allocate(options: ClusterOptions) -> ClusterOptions:
    """Return the options with the numbers of nodes and GPUs that the job will have.

    The GPUs per node are those of the partition's nodes (sinfo) unless both numbers are given.

    Raises:
        ConfigError: the GPUs do not divide among the nodes, or nobody knows how many GPUs a node has.
    """
    if options.gpus is not None and options.nodes is not None:
        found = Allocation(options.nodes, _divide(options.gpus, options.nodes))
    elif options.gpus is not None:
        found = _nodes_for(options.gpus, options)
    else:
        found = _whole_nodes(options.nodes or 1, options)
    return options.model_copy(update={"nodes": found.nodes, "gpus": found.gpus})


def _divide(gpus: int, nodes: int) -> int:
    if gpus % nodes:
        raise ConfigError(f"--gpus {gpus} is the total and does not divide by --nodes {nodes}: give a multiple")
    return gpus // nodes


def partition_nodes(options: ClusterOptions) -> Nodes:
    """Return the nodes that the job may run on. Raises SlurmError.

    A constraint counts if it is the name of one feature; `exclude` counts as SLURM reads it.
    """
    partition = options.sbatch.get("partition", options.partition)
    found = slurm.nodes(partition if isinstance(partition, str) else None)
    if options.exclude:
        excluded = set(slurm.hostnames(options.exclude))
        found = [node for node in found if node.name not in excluded]
    if options.constraint and any(options.constraint in node.features for node in found):
        found = [node for node in found if options.constraint in node.features]
    return found


def largest_share(nodes: Nodes, count: int, gpu_type: str | None) -> int:
    """Return the most GPUs per node that at least `count` of the nodes have; 0 if there are fewer nodes."""
    counts = sorted((node.count(gpu_type) for node in nodes), reverse=True)
    return counts[count - 1] if len(counts) >= count else 0


def _nodes_for(gpus: int, options: ClusterOptions) -> Allocation:
    """Return the fewest equal nodes that hold so many GPUs; one node if SLURM does not tell."""
    try:
        nodes = partition_nodes(options)
    except slurm.SlurmError:
        return Allocation(1, gpus)  # the pre-flight says that SLURM does not answer
    for count in range(1, gpus + 1):
        if gpus % count == 0 and largest_share(nodes, count, options.gpu_type) >= gpus // count:
            return Allocation(count, gpus // count)
    return Allocation(1, gpus)  # the pre-flight says that the partition has fewer


def _whole_nodes(nodes: int, options: ClusterOptions) -> Allocation:
    try:
        share = largest_share(partition_nodes(options), nodes, options.gpu_type)
    except slurm.SlurmError as error:
        raise ConfigError(
            f"how many GPUs a node has is asked of SLURM, which does not answer ({error}): give --where local to run "
            "on this machine, or --gpus, the number of GPUs in all"
        ) from None
    if not share:
        where = f"partition {options.partition}" if options.partition else "the default partition"
        kind = f"{options.gpu_type} GPUs" if options.gpu_type else "GPUs"
        raise ConfigError(
            f"{where} has no {nodes} node{'s' if nodes > 1 else ''} with {kind} that SLURM knows of: name another "
            "--partition (lmrc doctor lists them), or give --gpus, the number of GPUs in all, and --gpu-request none "
            "if the site hands them out by itself"
        )
    return Allocation(nodes, share)
