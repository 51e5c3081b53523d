from __future__ import annotations

from pathlib import Path

import pytest

from lmrc.common.errors import ConfigError
from lmrc.config.schema import ClusterOptions
from lmrc.launcher.allocation import allocate, with_exported
from tests.launcher.site import Partition, fake_site


def numbers(**options: object) -> tuple[int | None, int | None]:
    found = allocate(ClusterOptions.model_validate(options))
    return found.nodes, found.gpus


@pytest.mark.parametrize(
    ("gres", "given", "expected"),
    [
        ("gpu:8", {}, (1, 8)),
        ("gpu:8", {"nodes": 2}, (2, 16)),
        ("gpu:8", {"gpus": 8}, (1, 8)),
        ("gpu:8", {"gpus": 16}, (2, 16)),
        ("gpu:8", {"gpus": 12}, (2, 12)),
        ("gpu:8", {"gpus": 2}, (1, 2)),
        ("gpu:a100:4(S:0-1)", {}, (1, 4)),
        ("gpu:a100:4(S:0-1)", {"nodes": 1}, (1, 4)),
        ("gpu:a100:4(S:0-1)", {"gpus": 8}, (2, 8)),
        ("gpu:a100:4(S:0-1)", {"gpus": 16}, (4, 16)),
        ("gpu:a100:4(S:0-1)", {"gpus": 4, "nodes": 4}, (4, 4)),
    ],
)
def test_nodes_and_gpus_are_derived_from_the_partition(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gres: str,
    given: dict[str, object],
    expected: tuple[int, int],
) -> None:
    fake_site(tmp_path, monkeypatch, Partition(gres=gres))
    assert numbers(**given) == expected


def test_nodes_with_different_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [Partition("big", 1, "gpu:h100:8", features="ib"), Partition("small", 3, "gpu:a100:4", default=False)]
    fake_site(tmp_path, monkeypatch, *kinds)
    assert numbers(partition="big,small") == (1, 8)
    # Two nodes have four or more GPUs, one has eight.
    assert numbers(partition="big,small", nodes=2) == (2, 8)
    assert numbers(partition="big,small", gpu_type="a100") == (1, 4)
    assert numbers(partition="big,small", exclude="big-1") == (1, 4)
    assert numbers(partition="big,small", constraint="ib") == (1, 8)
    assert numbers(sbatch={"partition": "small"}) == (1, 4)


def test_a_total_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--gpus 7 is the total and does not divide by --nodes 2"):
        numbers(nodes=2, gpus=7)


def test_a_partition_without_gpus_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_site(tmp_path, monkeypatch, Partition("cpu", gres="(null)"))
    with pytest.raises(ConfigError, match=r"the default partition has no 1 node with GPUs .* --gpu-request none"):
        numbers()
    assert numbers(gpus=4) == (1, 4)


def test_gpus_must_be_given_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"sinfo is not installed.*or --gpus"):
        numbers()
    assert numbers(gpus=8) == (1, 8)


def test_exported_variables_of_sbatch_are_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_site(tmp_path, monkeypatch)
    exported = {"ACCOUNT": "proj7", "PARTITION": "gpu", "TIMELIMIT": "60", "EXCLUSIVE": "", "SIGNAL": "USR1"}
    for name, value in exported.items():
        monkeypatch.setenv(f"SBATCH_{name}", value)
    options, message = with_exported(ClusterOptions(partition="long", qos="high"))
    assert (options.account, options.partition, options.qos) == ("proj7", "long", "high")
    assert options.sbatch == {"time": "60", "exclusive": True}
    assert message == [
        "account proj7 comes from SBATCH_ACCOUNT in the environment",
        "exclusive comes from SBATCH_EXCLUSIVE in the environment",
        "SBATCH_PARTITION=gpu in the environment is overridden by the option partition",
        "SBATCH_SIGNAL=USR1 in the environment is ignored: give it as --sbatch 'OPTION=VALUE'",
        "time 60 comes from SBATCH_TIMELIMIT in the environment",
    ]
