from __future__ import annotations

from pathlib import Path

import pytest

from lmrc.common.errors import RunError
from lmrc.launcher.slurm.code_snapshot import take_snapshot
from tests.conftest import ROOT


def test_snapshot_is_copied_and_replaced(tmp_path: Path) -> None:
    code = take_snapshot(tmp_path / "run")
    assert code == (tmp_path / "run" / "code").resolve()
    for name in ("lmrc/launcher/slurm/code_snapshot.py", "configs/deepspeed/zero2.yaml", "launch/rcp.py"):
        assert (code / name).read_bytes() == (ROOT / name).read_bytes()
    assert not list(code.rglob("*.pyc"))
    (code / "lmrc" / "stale.py").write_text("")
    take_snapshot(tmp_path / "run")
    assert not (code / "lmrc" / "stale.py").exists()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["code"]


def test_snapshot_error_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(RunError, match=r"cannot copy the code to .*/run/code"):
        take_snapshot(tmp_path / "run")
