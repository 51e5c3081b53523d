from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lmrc.common.check import Check
from lmrc.config.schema import ClassifyConfig, ClusterOptions, DecodeOptions, RcpConfig
from lmrc.launcher.plan import plan_launch
from lmrc.launcher.preflight import examine
from lmrc.launcher.preflight.site import check_site, check_unused
from lmrc.launcher.stages import CLASSIFY, RCP
from tests.launcher.site import Partition, fake_site


def checks(**cluster: Any) -> list[Check]:
    return list(check_site(plan_launch(RCP, RcpConfig(cluster=ClusterOptions.model_validate(cluster)))))


def reasons(found: list[Check]) -> list[str]:
    return [str(check) for check in found if check.level == "missing"]


def test_job_that_fits_the_partition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_site(tmp_path, monkeypatch)
    (check,) = checks()
    assert check.level == "ok"
    assert "the default partition: 4 of 4 nodes have 8 or more GPUs; SLURM (8 tasks on 1 node)" in check.what


def test_more_gpus_than_the_partition_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_site(tmp_path, monkeypatch, Partition("small", 2, "gpu:a100:4"))
    assert not reasons(checks(gpus=8))
    (message,) = reasons(checks(gpus=16))
    assert "has 0 nodes with 16 or more GPUs, but 1 requested; the largest node has 4" in message
    (message,) = reasons(checks(gpus=16, nodes=2))
    assert "has 0 nodes with 8 or more GPUs, but 2 requested" in message and "give --gpus without --nodes" in message
    (message,) = reasons(checks(gpus=12, nodes=3))
    assert "has 2 nodes with 4 or more GPUs, but 3 requested" in message
    (message,) = reasons(checks(gpus=4, gpu_type="h100"))
    assert "has no h100 GPUs that SLURM knows of" in message
    assert not reasons(checks(gpus=16, gpu_request="none"))


def test_gpus_of_a_worker_must_be_on_one_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_site(tmp_path, monkeypatch, Partition("small", 2, "gpu:4"))
    config = ClassifyConfig(cluster=ClusterOptions(gpus=16), decode=DecodeOptions(gpus_per_worker=8))
    (message,) = reasons(list(check_site(plan_launch(CLASSIFY, config))))
    assert "0 nodes with 8 or more GPUs" in message


def test_time_limit_above_that_of_the_partition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_site(tmp_path, monkeypatch, Partition(limit="12:00:00"))
    (message,) = reasons(checks())
    assert "asks for 1440 minutes, but the default partition allows 720" in message and "--time 720" in message
    assert not reasons(checks(time=720))
    for asked, minutes in (("1-12", 2160), ("721", 721), ("12:01:00", 721)):
        (message,) = reasons(checks(sbatch={"time": asked}))
        assert f"asks for {minutes} minutes" in message
    for fitting in ("720", "12:00:00", None, "0"):
        assert not reasons(checks(sbatch={"time": fitting}))


def test_numbers_that_do_not_fit_hide_no_other_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_site(tmp_path, monkeypatch, Partition(limit="12:00:00"), job_requeue=0)
    monkeypatch.setenv("SBATCH_TIMELIMIT", "13:00:00")
    wrong = {"gpus": 12, "nodes": 5, "requeue": "requeue", "sbatch": {"array": "0-3", "nodes": "2"}}
    plan, found = examine(RCP, RcpConfig(cluster=ClusterOptions.model_validate(wrong)))
    assert plan is None
    messages = reasons(found)
    assert "does not divide" in messages[0]
    assert "array is set by the launcher" in messages[1] and "nodes is set by the launcher" in messages[1]
    assert "asks for 780 minutes" in messages[2]
    assert "the site has JobRequeue=0" in [check.what for check in found if check.level == "warning"]
    # On this machine only the numbers count.
    _, found = examine(CLASSIFY, ClassifyConfig(cluster=ClusterOptions(where="local", sbatch={"array": "0-3"})))
    assert not any("array is set" in str(check) for check in found)


def test_signal_delay_as_long_as_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_site(tmp_path, monkeypatch)
    (message,) = reasons(checks(time=2))
    assert "cluster.signal_delay is 120 seconds, and the job asks for 2 minutes" in message
    assert reasons(checks(sbatch={"time": "2:30"}))
    assert not reasons(checks(time=2, signal_delay=60)) and not reasons(checks(time=3))


def test_site_without_requeue_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_site(tmp_path, monkeypatch, job_requeue=0)
    warnings = [check.what for check in checks(requeue="requeue") if check.level == "warning"]
    assert warnings == ["the site has JobRequeue=0"]
    assert not [check for check in checks(requeue="never") if check.level == "warning"]
    found = [str(check) for check in checks(chain_jobs=7)]
    assert "the site has JobRequeue=0: a chain of 7 jobs, each resumes the one before" in found


def test_controller_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_site(tmp_path, monkeypatch)
    (tmp_path / "bin" / "sinfo").write_text("#!/bin/bash\necho unable to contact >&2; exit 1\n")
    (message,) = reasons(checks(gpus=8))
    assert "SLURM does not answer" in message and "--where local" in message


def test_exported_variables_and_reserved_options_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_site(tmp_path, monkeypatch, Partition("gpu"), Partition("long", default=False))
    monkeypatch.setenv("SBATCH_PARTITION", "long")
    found = checks(sbatch={"array": "0-3"})
    assert found[0].what == "partition long comes from SBATCH_PARTITION in the environment"
    assert any("partition long: 4 of 4 nodes" in check.what for check in found)
    (message,) = reasons(found)
    assert message.startswith("cluster.sbatch: array is set by the launcher: give --gpus")


def test_slurm_options_on_this_machine_are_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    given = ClusterOptions(nodes=1, gpus=1, partition="gpu", sbatch={"qos": "high"}, where="here")
    (check,) = check_unused(plan_launch(RCP, RcpConfig(cluster=given)))
    assert check.level == "warning"
    assert check.what == "cluster.partition, cluster.sbatch are for SLURM, and rcp runs on this machine"
    # A config.yaml gives every option.
    every = ClusterOptions.model_validate(ClusterOptions(nodes=1, where="here").model_dump())
    assert not list(check_unused(plan_launch(RCP, RcpConfig(cluster=every))))


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"nodes": 2}, "cluster.nodes is for SLURM"),
        (
            {"gpu_request": "gres", "max_requeues": 3, "cpus_per_gpu": 8},
            "cpus_per_gpu, cluster.gpu_request, cluster.max_",
        ),
        ({"time": 60}, "cluster.time has no effect: rcp runs in this process"),
        ({"setup": "module load cuda", "cache_folder": "/cache"}, "cluster.setup, cluster.cache_folder have no effect"),
    ],
)
def test_options_that_are_not_read_here(
    given: dict[str, Any], names: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    here = ClusterOptions(where="here", **given)
    (check,) = check_unused(plan_launch(RCP, RcpConfig(cluster=here)))
    assert check.level == "warning" and names in check.what
    local = ClusterOptions(where="local", gpus=1, **given)
    found = list(check_unused(plan_launch(RCP, RcpConfig(cluster=local))))
    assert bool(found) == ("SLURM" in names or "requeue" in names or "gpu_request" in names)
