"""Choose how many CPU threads torch starts, and how they wait, before torch is imported.

OpenMP reads its environment once, when torch loads it. Every command of this suite therefore calls `configure` first.
Importing lmrc changes nothing: a program that uses lmrc as a library decides for itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

THREADS = "OMP_NUM_THREADS"
# Each of these says how OpenMP's threads wait: the standard's name, libgomp's and libiomp5's.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
CGROUP, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
TOPOLOGY = Path("/sys/devices/system/cpu")
# The variables that `configure` set, rather than the user.
_set_here: set[str] = set()


def configure() -> None:
    """Set OpenMP's environment for this process where the user left it open.

    Threads wait without spinning: beside another busy process, threads that spin for each other take most of the time.
    Their number is `cores()`. Does nothing once torch is imported, because OpenMP has read its environment by then.
    """
    if "torch" in sys.modules:
        return
    if not any(os.environ.get(name) for name in WAITING):
        _set("OMP_WAIT_POLICY", "PASSIVE")
    if not os.environ.get(THREADS):
        _set(THREADS, str(cores()))


def of_each(processes: int) -> dict[str, str]:
    """Return the environment that gives each of several processes on this machine its part of the cores.

    Empty if the user has set the number of threads.
    """
    if os.environ.get(THREADS) and THREADS not in _set_here:
        return {}
    return {THREADS: str(max(1, cores() // processes))}


@contextlib.contextmanager
def as_given() -> Iterator[None]:
    """Take out of the environment what `configure` set: a job inherits it, and decides on its own machine."""
    taken = {name: os.environ.pop(name) for name in _set_here if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(taken)


def cpus() -> int:
    """Return how many logical CPUs this process may use, by affinity, cgroup quota and SLURM.

    Does not depend on the load of the machine: another number of threads may change sums in the last bit, and a
    training that resumes must give the same numbers.
    """
    limits = (len(_affinity()), _quota(), _of_slurm())
    return max(1, min(int(limit) for limit in limits if limit is not None))


def cores() -> int:
    """Return `cpus()`, but count hardware threads of one core once, as torch's own default does."""
    return max(1, min(len({_siblings(cpu) for cpu in _affinity()}), cpus()))


def _set(name: str, value: str) -> None:
    os.environ[name] = value
    _set_here.add(name)


def _affinity() -> set[int]:
    """Return the numbers of the CPUs that the system schedules this process on."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _siblings(cpu: int) -> str:
    """Return which CPUs share a core with this one; its own number if that is not known."""
    try:
        return (TOPOLOGY / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _quota() -> float | None:
    """Return the CPUs that the cgroups (v1 or v2) of this process grant, or None if they set no limit."""
    try:
        lines = CGROUP.read_text().splitlines()
    except OSError:
        return None
    limits = []
    for line in lines:
        # Such as 0::/user.slice (v2) or 4:cpu,cpuacct:/docker/12 (v1).
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in {CGROUPS / controllers, CGROUPS / "cpu"} if controllers else {CGROUPS}:
            group = mount / path.strip("/")
            # A limit holds for all groups below. In a container the path may be the host's; the mount is there anyway.
            limits += [_limit(folder) for folder in (group, *group.parents) if folder.is_relative_to(mount)]
    return min((limit for limit in limits if limit is not None), default=None)


def _limit(group: Path) -> float | None:
    """Return the CPUs that one cgroup grants, or None."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        # Without a limit the quota is "max" or -1.
        return int(quota) / int(period) if quota.isdecimal() else None
    except (OSError, ValueError):
        return None


def _of_slurm() -> int | None:
    """Return the CPUs that SLURM gave this task, or the job on this node outside of a step; None outside of SLURM.

    Affinity says the same on most clusters, but not where the site's TaskPlugin binds nothing.
    """
    on_node, per_task = (_number(os.environ.get(f"SLURM_CPUS_{name}")) for name in ("ON_NODE", "PER_TASK"))
    tasks = _tasks_on_node()
    if tasks is None:  # a batch script has all of the job's CPUs
        return on_node
    return per_task or (on_node and max(1, on_node // tasks))


def _tasks_on_node() -> int | None:
    """Return how many tasks of this SLURM step run on this node; None outside of a step."""
    # Such as 2(x3),1: two tasks on three nodes, one on the fourth.
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")):
        counts += [int(count)] * int(times or 1)
    node = _number(os.environ.get("SLURM_NODEID")) or 0
    return counts[node] if node < len(counts) else None


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None
