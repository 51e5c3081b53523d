from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lmrc.common import threads
from lmrc.launcher.slurm.submit import _outside_of_jobs
from tests.conftest import ROOT

SLURM = ("SLURM_CPUS_ON_NODE", "SLURM_CPUS_PER_TASK", "SLURM_STEP_TASKS_PER_NODE", "SLURM_NODEID")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Fake a machine with 8 CPUs without limits, outside SLURM. Return the folder that stands for /proc and /sys."""
    for name in (*threads.WAITING, threads.THREADS, *SLURM):
        # Set first, so that monkeypatch also undoes what `configure` sets.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(threads, "_set_here", set())
    monkeypatch.setattr(threads, "_affinity", lambda: set(range(8)))
    monkeypatch.setattr(threads, "TOPOLOGY", tmp_path / "cpu")
    monkeypatch.setattr(threads, "CGROUP", tmp_path / "self")
    monkeypatch.setattr(threads, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_affinity_limits_cpus() -> None:
    code = "import os; from lmrc.common import threads; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    code += "print(threads.cpus(), threads.cores())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "1 1\n"


def test_without_a_limit_all_cpus_count() -> None:
    assert (threads.cpus(), threads.cores()) == (8, 8)


def test_hardware_threads_of_a_core_count_once(machine: Path) -> None:
    for cpu in range(8):
        write(machine / "cpu" / f"cpu{cpu}" / "topology" / "thread_siblings_list", f"{cpu % 4},{cpu % 4 + 4}\n")
    assert (threads.cpus(), threads.cores()) == (8, 4)


@pytest.mark.parametrize(
    ("inner", "outer", "expected"),
    [
        ("300000 100000", "max 100000", 3),
        ("max 100000", "200000 100000", 2),
        ("600000 100000", "200000 100000", 2),
        ("150000 100000", "max 100000", 1),
        ("50000 100000", "max 100000", 1),
        ("max 100000", "max 100000", 8),
        ("broken", "max 100000", 8),
    ],
)
def test_quota_of_cgroup_v2(machine: Path, inner: str, outer: str, expected: int) -> None:
    write(machine / "self", "0::/slice/job\n")
    write(machine / "cgroup" / "slice" / "job" / "cpu.max", inner + "\n")
    write(machine / "cgroup" / "slice" / "cpu.max", outer + "\n")
    assert (threads.cpus(), threads.cores()) == (expected, expected)


@pytest.mark.parametrize(("quota", "expected"), [("300000", 3), ("-1", 8), ("1000", 1)])
@pytest.mark.parametrize("folder", ["cpu,cpuacct/docker/12", "cpu/docker/12", "cpu,cpuacct"])
def test_quota_of_cgroup_v1(machine: Path, folder: str, quota: str, expected: int) -> None:
    """Inside a container the group's folder may be missing, and the mount holds its files."""
    write(machine / "self", "5:cpuset:/other\n4:cpu,cpuacct:/docker/12\n0::/elsewhere\n")
    write(machine / "cgroup" / folder / "cpu.cfs_quota_us", quota + "\n")
    write(machine / "cgroup" / folder / "cpu.cfs_period_us", "100000\n")
    # Another controller's group limits no CPUs.
    write(machine / "cgroup" / "cpuset" / "other" / "cpu.cfs_quota_us", "100000\n")
    write(machine / "cgroup" / "cpuset" / "other" / "cpu.cfs_period_us", "100000\n")
    assert threads.cpus() == expected


# As SLURM 22.05 sets them.
@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"ON_NODE": "6", "PER_TASK": "3"}, 6),
        ({"ON_NODE": "6", "PER_TASK": "3", "TASKS": "2(x2)", "NODEID": "1"}, 3),
        ({"ON_NODE": "6", "TASKS": "2(x2)", "NODEID": "1"}, 3),
        ({"ON_NODE": "6", "TASKS": "2(x3),1", "NODEID": "2"}, 3),
        ({"ON_NODE": "6", "TASKS": "2(x3),1", "NODEID": "3"}, 6),
        ({"ON_NODE": "2", "TASKS": "4", "NODEID": "0"}, 1),
        # More than the system schedules the process on.
        ({"ON_NODE": "96", "TASKS": "1", "NODEID": "0"}, 8),
        ({"TASKS": "1", "NODEID": "0"}, 8),
    ],
)
def test_slurm_gives_a_task_its_part(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: int) -> None:
    names = {"ON_NODE": SLURM[0], "PER_TASK": SLURM[1], "TASKS": SLURM[2], "NODEID": SLURM[3]}
    for name, value in variables.items():
        monkeypatch.setenv(names[name], value)
    assert threads.cpus() == expected


def test_what_is_open_is_set() -> None:
    threads.configure()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert os.environ["OMP_NUM_THREADS"] == "8"


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_the_users_way_of_waiting_wins(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "17")
    threads.configure()
    assert {known: os.environ.get(known) for known in threads.WAITING if known in os.environ} == {name: "17"}
    assert os.environ["OMP_NUM_THREADS"] == "8"


def test_the_users_number_of_threads_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    threads.configure()
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert threads.environment_per_process(4) == {}


def test_nothing_is_set_after_torch_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys)
    threads.configure()
    assert not {*threads.WAITING, threads.THREADS} & set(os.environ)


@pytest.mark.parametrize(("processes", "cores_per_process"), [(1, "8"), (2, "4"), (3, "2"), (8, "1"), (20, "1")])
def test_processes_on_one_machine_share_the_cores(processes: int, cores_per_process: str) -> None:
    threads.configure()
    assert threads.environment_per_process(processes) == {"OMP_NUM_THREADS": cores_per_process}


def test_a_submitted_job_does_not_inherit_our_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    threads.configure()
    with _outside_of_jobs():
        assert not {*threads.WAITING, threads.THREADS} & set(os.environ)
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["OMP_NUM_THREADS"]) == ("PASSIVE", "8")


def test_a_submitted_job_inherits_what_the_user_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    threads.configure()
    with _outside_of_jobs():
        assert os.environ["OMP_NUM_THREADS"] == "3"
        assert "OMP_WAIT_POLICY" not in os.environ


def openmp(words: list[str], **environment: str) -> dict[str, str]:
    """Return the settings that OpenMP read from the environment of a program."""
    clean = {name: value for name, value in os.environ.items() if name not in (*threads.WAITING, threads.THREADS)}
    clean |= {"PYTHONPATH": str(ROOT), "OMP_DISPLAY_ENV": "verbose", **environment}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=clean, capture_output=True, text=True, timeout=120)
    # A dry run without data ends with status 2.
    assert done.returncode in (0, 2), done.stderr
    return dict(re.findall(r"(G?OMP_\w+) ?= ?'([^']*)'", done.stderr))


PROGRAMS = {
    "launch": ["launch/rcp.py", "--dry-run", "--where=local"],
    # A command that imports torch and does nothing else.
    "lmrc": [
        "-c",
        "import lmrc.cli.main as cli; cli.lmrc.callback = lambda: __import__('torch'); cli.main(['data', 'synth'])",
    ],
    "job": [
        "-c",
        "import lmrc.launcher.slurm.job as job, submitit, types; job.run_attempt = lambda *_: __import__('torch'); "
        "submitit.JobEnvironment = lambda: types.SimpleNamespace(cluster='local', job_id='1', raw_job_id='1', "
        "num_tasks=1, num_nodes=1, global_rank=0, local_rank=0); "
        "from lmrc.config.schema import RcpConfig; job.Job('rcp', RcpConfig())()",
    ],
}


@pytest.fixture(scope="module")
def libgomp() -> None:
    """Skip if torch's OpenMP is not libgomp, or does not spin by default."""
    if openmp(["-c", "import torch"]).get("GOMP_SPINCOUNT", "0") == "0":
        pytest.skip("torch's OpenMP here is not libgomp, or does not spin by default")


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_sets_openmp_before_torch_loads_it(name: str, libgomp: None) -> None:
    found = openmp(PROGRAMS[name])
    # libgomp also displays an undefined policy as PASSIVE. The spin count tells them apart.
    assert (found["OMP_WAIT_POLICY"], found["GOMP_SPINCOUNT"]) == ("PASSIVE", "0")
    code = "from lmrc.common import threads; print(threads.cores())"
    expected = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert found["OMP_NUM_THREADS"] == expected
    given = openmp(PROGRAMS[name], GOMP_SPINCOUNT="123", OMP_NUM_THREADS="3")
    assert (given["GOMP_SPINCOUNT"], given["OMP_NUM_THREADS"]) == ("123", "3")


def test_importing_lmrc_changes_nothing() -> None:
    code = "import os; before = dict(os.environ); import lmrc.cli.main, lmrc.launcher.launch, lmrc.launcher.pipeline, "
    code += "lmrc.launcher.slurm.job, lmrc.extract, lmrc.common.threads; added = os.environ.keys() - before.keys(); "
    code += "assert not [name for name in added if name.startswith(('OMP', 'GOMP', 'KMP', 'MKL'))], added"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
