from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

from lmrc.common.errors import RunError
from lmrc.launcher.slurm import code_snapshot
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


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT], ids=["disk", "quota"])
def test_full_disk_is_named_and_keeps_the_older_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    take_snapshot(tmp_path / "run")

    def refuse(source: str, target: str, **_: object) -> None:
        raise OSError(code, os.strerror(code), target)

    # copytree goes on after such an error, and raises another one at its end.
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", refuse)
        with pytest.raises(RunError, match=rf"cannot copy the code to .*/code: .*{os.strerror(code)}.*; free space"):
            take_snapshot(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["code"]
    assert (tmp_path / "run" / "code" / "launch" / "rcp.py").exists()


def _launch_often(checkout: Path, run: Path) -> None:
    code_snapshot.PROJECT = checkout
    for _ in range(40):
        take_snapshot(run)


def test_two_checkouts_that_launch_one_run_at_once(tmp_path: Path) -> None:
    """Each takes its whole code there; the last one stays, and nothing of both is mixed or left over."""
    checkouts = [tmp_path / name for name in ("mine", "hers")]
    for checkout in checkouts:
        (checkout / "lmrc").mkdir(parents=True)
        for number in range(5):
            (checkout / "lmrc" / f"{number}.py").write_text(checkout.name)
    run = tmp_path / "run"
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_launch_often, args=(checkout, run)) for checkout in checkouts]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert [path.name for path in run.iterdir()] == ["code"]
    content = [path.read_text() for path in sorted((run / "code" / "lmrc").iterdir())]
    assert content in ([name] * 5 for name in ("mine", "hers"))
