from __future__ import annotations

from pathlib import Path

import pytest

from lmrc.launcher.slurm import commands as slurm
from lmrc.launcher.slurm.commands import SlurmError, parse_gres, parse_time
from tests.launcher.site import Partition, fake_site


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("gpu:8(S:0-1)", {"": 8}),
        ("gpu:a100:4", {"a100": 4}),
        ("gpu:tesla:2(S:0),gpu:kepler:1,mps:400,bandwidth:lustre:no_consume:4G", {"tesla": 2, "kepler": 1}),
        ("gpu:a100_3g.20gb:2(S:0-7,9),gpu:a100_3g.20gb:1", {"a100_3g.20gb": 3}),
        ("(null)", {}),
        ("craynetwork:4", {}),
    ],
)
def test_parse_gres(text: str, gpus: dict[str, int]) -> None:
    assert parse_gres(text) == gpus


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        *(("infinite", None), ("1-00:00:00", 1440), ("2-12:30:00", 3630), ("12:00:00", 720), ("30:00", 30)),
        *(("90", 90), ("2-12", 3600), ("2-12:30", 3630)),  # as in sbatch --time
    ],
)
def test_parse_time(text: str, minutes: int | None) -> None:
    assert parse_time(text) == minutes


def test_nodes_of_a_partition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = Partition("old", 1, "gpu:v100:4(S:0)", "1-00:00:00", "ib,v100", default=False)
    fake_site(tmp_path, monkeypatch, Partition("gpu", 2, "gpu:8"), others)
    assert [(node.name, node.count(None)) for node in slurm.nodes(None)] == [("gpu-1", 8), ("gpu-2", 8)]
    (node,) = slurm.nodes("old")
    assert (node.count("v100"), node.count("a100"), node.features) == (4, 0, {"ib", "v100"})
    assert len(slurm.nodes("gpu,old")) == 3
    assert slurm.time_limit("old") == 1440
    assert slurm.time_limit(None) is slurm.time_limit("gpu,old") is None
    with pytest.raises(SlurmError, match="no partition none-such"):
        slurm.nodes("none-such")


@pytest.mark.parametrize(("before", "after"), [("(null)", "n3,n4"), ("n[1-2]", "n[1-2],n3,n4")])
def test_nodes_are_excluded_besides_those_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str
) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(
        '#!/bin/bash\nif [ "$1" = update ]; then echo "$@" > "${0%/*}/given"\n'
        f"else echo 'JobId=4711 JobName=x'; echo '   ReqNodeList=(null) ExcNodeList={before}'; fi\n"
    )
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    slurm.exclude_nodes("4711", ["n3", "n4"])
    assert (tmp_path / "given").read_text() == f"update jobid=4711 excnodelist={after}\n"
