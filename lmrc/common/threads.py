"""OpenMP settings of torch: the number of CPU threads, and how they wait.

OpenMP reads its environment once, when torch loads it. Every command of this suite therefore calls `configure` before
it imports torch. Importing lmrc as a library changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

THREADS = "OMP_NUM_THREADS"
# Wait policy of threads, in the variables of the OpenMP standard, libgomp and libiomp5.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
CGROUP, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
TOPOLOGY = Path("/sys/devices/system/cpu")
# Variables that `configure` has set, and not the user.
_set_here: set[str] = set()


def configure() -> None:
    """Set the OpenMP variables that the user has not set: `cores()` threads that wait without spinning.

    If another process is busy too, spinning threads waste most of the time. Does nothing if torch is already imported,
    because OpenMP has read its environment by then.
    """
    if "torch" in sys.modules:
        return
    if not any(os.environ.get(name) for name in WAITING):
        _set("OMP_WAIT_POLICY", "PASSIVE")
    if not os.environ.get(THREADS):
        _set(THREADS, str(cores()))


def environment_per_process(processes: int) -> dict[str, str]:
    """Return the environment variables that divide the cores among several processes on this machine.

    Empty if the user has set the number of threads.
    """
    if os.environ.get(THREADS) and THREADS not in _set_here:
        return {}
    return {THREADS: str(max(1, cores() // processes))}


@contextlib.contextmanager
def unconfigured() -> Iterator[None]:
    """Remove the variables that `configure` has set, so that a submitted job does not inherit them."""
    removed = {name: os.environ.pop(name) for name in _set_here if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(removed)


def cpus() -> int:
    """Return how many logical CPUs this process may use, according to affinity, cgroup quota and SLURM.

    The load of the machine does not matter: a different number of threads may change sums in the last bit, and a
    resumed training must give the same results.
    """
    limits = (len(_affinity()), _cgroup_quota(), _slurm_cpus())
    return max(1, min(int(limit) for limit in limits if limit is not None))


def cores() -> int:
    """Return `cpus()` with the hardware threads of one core counted once, as torch does by default."""
    return max(1, min(len({_siblings(cpu) for cpu in _affinity()}), cpus()))


def _set(name: str, value: str) -> None:
    os.environ[name] = value
    _set_here.add(name)


def _affinity() -> set[int]:
    """Return the indices of the CPUs that this process may run on."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _siblings(cpu: int) -> str:
    """Return the CPUs that share a core with this one, such as 0,4; its own index if they are not known."""
    try:
        return (TOPOLOGY / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _cgroup_quota() -> float | None:
    """Return the CPU limit of this process's cgroups (v1 or v2); None without a limit."""
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
            # Limits of parent groups apply too. In a container the path may be the host's, but the mount exists.
            limits += [_group_limit(folder) for folder in (group, *group.parents) if folder.is_relative_to(mount)]
    return min((limit for limit in limits if limit is not None), default=None)


def _group_limit(group: Path) -> float | None:
    """Return the CPU limit of one cgroup; None without a limit."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        # Without a limit the quota is "max" or -1.
        return int(quota) / int(period) if quota.isdecimal() else None
    except (OSError, ValueError):
        return None


def _slurm_cpus() -> int | None:
    """Return the CPUs of this SLURM task, or of the job on this node outside a step; None outside SLURM.

    Affinity gives the same number, unless the site's TaskPlugin does not bind tasks to CPUs.
    """
    on_node, per_task = (_parse_int(os.environ.get(f"SLURM_CPUS_{name}")) for name in ("ON_NODE", "PER_TASK"))
    tasks = _tasks_on_node()
    if tasks is None:  # a batch script has all of the job's CPUs
        return on_node
    return per_task or (on_node and max(1, on_node // tasks))


def _tasks_on_node() -> int | None:
    """Return the number of tasks of this SLURM step on this node; None outside a step."""
    # Format: 2(x3),1 is two tasks on each of three nodes, and one on the fourth.
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")):
        counts += [int(count)] * int(times or 1)
    node = _parse_int(os.environ.get("SLURM_NODEID")) or 0
    return counts[node] if node < len(counts) else None


def _parse_int(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None
