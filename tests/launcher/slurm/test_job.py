from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import submitit

from lmrc.common.exit_codes import Interrupted
from lmrc.config.schema import ClassifyConfig, DecodeOptions, RcConfig
from lmrc.launcher.slurm import commands as slurm
from lmrc.launcher.slurm.job import Job
from lmrc.launcher.stages import StageConfig
from lmrc.runs.events import History
from lmrc.training import distributed

NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCH_FR_BUFFER_SIZE")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return the environment of submitit in a task: rank 9 of two nodes with 8 GPUs."""
    environment = SimpleNamespace(
        **{"cluster": "slurm", "job_id": "12711", "raw_job_id": "12711", "num_tasks": 16, "num_nodes": 2},
        **{"global_rank": 9, "local_rank": 1, "hostnames": ["n1", "n2"]},
    )
    monkeypatch.setattr(submitit, "JobEnvironment", lambda: environment)
    for name in NAMES:
        monkeypatch.setenv(name, "")  # restored after the test
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    monkeypatch.setattr(slurm, "hostnames", lambda nodes: ["n1", "n2"])
    # It would end the tests with status 0.
    environment.exits = []
    monkeypatch.setattr(distributed, "skip_teardown_at_exit", lambda: environment.exits.append(0))
    return environment


def variables(monkeypatch: pytest.MonkeyPatch, stage: str = "rc", config: StageConfig | None = None) -> dict[str, str]:
    """Return the environment variables that the stage sees."""
    seen: list[dict[str, str]] = []
    monkeypatch.setattr("lmrc.launcher.slurm.job.run_attempt", lambda *_: seen.append(dict(os.environ)))
    Job(stage, config or RcConfig())()
    return seen[0]


def test_ports_are_below_those_of_clients_and_change_with_a_requeue(
    monkeypatch: pytest.MonkeyPatch, environment: SimpleNamespace
) -> None:
    ports = set()
    for restart in range(10):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        ports.add(int(variables(monkeypatch)["MASTER_PORT"]))
    assert len(ports) == 10
    environment.raw_job_id = "31999"  # the highest port
    ports.add(int(variables(monkeypatch)["MASTER_PORT"]))
    # Linux gives the ports from 32768 to clients.
    assert all(20000 <= port < 32000 for port in ports)


def test_first_host_without_scontrol(monkeypatch: pytest.MonkeyPatch, environment: SimpleNamespace) -> None:
    assert variables(monkeypatch)["MASTER_ADDR"] == "n1"

    def missing(nodes: str) -> Any:
        raise slurm.SlurmError("scontrol is not installed on this machine")

    monkeypatch.setattr(slurm, "hostnames", missing)
    environment.hostnames = ["m1", "m2"]  # as in a container without SLURM's commands
    assert variables(monkeypatch)["MASTER_ADDR"] == "m1"


def test_torch_remembers_collectives_unless_set_by_the_user(
    monkeypatch: pytest.MonkeyPatch, environment: SimpleNamespace
) -> None:
    assert variables(monkeypatch)["TORCH_FR_BUFFER_SIZE"] == "2000"
    monkeypatch.setenv("TORCH_FR_BUFFER_SIZE", "0")
    assert variables(monkeypatch)["TORCH_FR_BUFFER_SIZE"] == "0"


@pytest.mark.parametrize("given", ["4,5,6,7", "GPU-a,GPU-b,GPU-c,GPU-d", "MIG-a,MIG-b,MIG-c,MIG-d"])
def test_local_ranks_see_the_gpus_of_the_launcher(
    monkeypatch: pytest.MonkeyPatch, environment: SimpleNamespace, given: str
) -> None:
    environment.cluster, environment.num_nodes = "local", 1
    monkeypatch.setenv("LMRC_VISIBLE_GPUS", given)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")  # as submitit sets it
    assert variables(monkeypatch)["CUDA_VISIBLE_DEVICES"] == given
    environment.local_rank = 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    two_each = ClassifyConfig(decode=DecodeOptions(gpus_per_worker=2))
    own = ",".join(given.split(",")[2:])
    assert variables(monkeypatch, "classify", two_each)["CUDA_VISIBLE_DEVICES"] == own


def test_an_interrupted_rank_ends_with_status_0(monkeypatch: pytest.MonkeyPatch, environment: SimpleNamespace) -> None:
    def interrupt(*_: Any) -> None:
        raise Interrupted("saved")

    monkeypatch.setattr("lmrc.launcher.slurm.job.run_attempt", interrupt)
    with pytest.raises(SystemExit) as ended:
        Job("rc", RcConfig())()
    assert ended.value.code == 0
    # submitit writes a result only if the callable returns, by which the local launcher knows a killed rank.
    environment.cluster = "local"
    assert Job("rc", RcConfig())() is None
    assert environment.exits == [0, 0]


def test_only_ranks_that_succeeded_skip_the_teardown(
    monkeypatch: pytest.MonkeyPatch, environment: SimpleNamespace
) -> None:
    variables(monkeypatch)
    assert environment.exits == [0]
    variables(monkeypatch, "classify", ClassifyConfig())  # its workers form no group
    assert environment.exits == [0]

    def fail(*_: Any) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("lmrc.launcher.slurm.job.run_attempt", fail)
    with pytest.raises(ValueError, match="a bug"):
        Job("rc", RcConfig())()
    assert environment.exits == [0]


@pytest.mark.parametrize("cluster", [{"requeue": "chain"}, {"requeue": "never"}, {"container": "image.sif"}])
@pytest.mark.parametrize("stage", ["rc", "classify"])
def test_interruption_is_left_to_the_batch_script(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: SimpleNamespace,
    stage: str,
    cluster: dict[str, Any],
) -> None:
    def interrupted(*_: object) -> None:
        raise Interrupted("saved")

    def never(*_: object) -> None:
        raise AssertionError("requeued by a process of the job")

    before = signal.getsignal(signal.SIGUSR2)
    monkeypatch.setattr("lmrc.launcher.slurm.job.run_attempt", interrupted)
    monkeypatch.setattr("lmrc.launcher.slurm.job.requeue", never)
    environment.global_rank = 0
    kind = RcConfig if stage == "rc" else ClassifyConfig
    config = kind.model_validate({"run": {"folder": tmp_path, "name": "x"}, "cluster": cluster})
    try:
        with pytest.raises(SystemExit) as end:
            Job(stage, config)()
        assert end.value.code == 0
        # Rank 0 of a training has recorded it; a worker is recorded here.
        recorded = [event["event"] for event in History(tmp_path / "x").read()]
        assert recorded == ([] if stage == "rc" else ["preempted"])

        # A signal before the stage listens: submitit would call scontrol.
        def leave(status: int) -> None:
            raise SystemExit(f"left with {status}")

        monkeypatch.setattr(os, "_exit", leave)
        with pytest.raises(SystemExit, match="left with 0"):
            signal.raise_signal(signal.SIGUSR2)
        (event,) = History(tmp_path / "x").read()
        assert event["event"] == "preempted"
        assert event["cause"] == ("saved" if stage == "classify" else "SIGUSR2 before the work began")
    finally:
        signal.signal(signal.SIGUSR2, before)
