"""One worker, other inferences in the folder, and full disks."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmrc.common.errors import RunError
from lmrc.common.exit_codes import Interrupted
from lmrc.config.schema import WorkOptions
from lmrc.inference.run_worker import UnitCounts, clean, counts, work
from lmrc.runs.shared_fs import Files
from tests.conftest import ROOT
from tests.disk import small_disk
from tests.inference.squares import OPTIONS, SquaresInference, start


def test_one_worker_computes_everything(tmp_path: Path) -> None:
    inference = SquaresInference(103, tmp_path)
    assert work(tmp_path, inference, OPTIONS) == {"documents": 103}
    assert inference.is_correct()
    assert sorted(inference.computed()) == [(first, min(first + 4, 103)) for first in range(0, 103, 4)]
    assert counts(tmp_path) == UnitCounts(26, 26, 0, 0)
    clean(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["computed", "merges", "output"]
    assert counts(tmp_path) == UnitCounts(0, 0, 0, 0)


def test_an_empty_corpus(tmp_path: Path) -> None:
    assert work(tmp_path, SquaresInference(0, tmp_path), OPTIONS) == {"documents": 0}


def test_another_inference_in_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        work(tmp_path, SquaresInference(40, tmp_path), OPTIONS, stop=lambda: True)
    with pytest.raises(RunError, match=r"documents \(was 40, now 41\); units \(was 10, now 11\)\. Give the same"):
        work(tmp_path, SquaresInference(41, tmp_path), OPTIONS)
    with pytest.raises(RunError, match=r"docs_per_unit \(was 4, now 5\)"):
        work(tmp_path, SquaresInference(40, tmp_path), WorkOptions(docs_per_unit=5))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT], ids=["disk", "quota"])
def test_a_full_disk_is_reported_and_loses_nothing(tmp_path: Path, code: int) -> None:
    class Full(Files):
        def write(self, path: Path, content: bytes) -> None:
            if "part" in path.name and len(list(path.parent.glob("part-*"))) == 5:
                raise OSError(code, os.strerror(code))
            super().write(path, content)

    inference = SquaresInference(40, tmp_path)
    with pytest.raises(RunError, match=f"{os.strerror(code)}; free space"):
        work(tmp_path, inference, OPTIONS, files=Full())
    assert counts(tmp_path) == UnitCounts(10, 5, 0, 0)
    assert work(tmp_path, inference, OPTIONS) and inference.is_correct()


def test_workers_on_a_full_disk_all_end_and_lose_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with small_disk(tmp_path / "disk", megabytes=1) as disk:
        run = disk.path / "run"
        run.mkdir()

        def fill(documents: range) -> None:
            if counts(run).done >= 5:
                with contextlib.suppress(OSError):  # another worker filled it
                    disk.fill()

        workers = [start(run, SquaresInference(400, tmp_path, fill, seconds=0.05)) for _ in range(3)]
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [1, 1, 1]
        assert capfd.readouterr().err.count("No space left on device; free space") >= 3
        kept = counts(run).done
        assert 5 <= kept < 100
        disk.free()
        (tmp_path / "computed").unlink()
        inference = SquaresInference(400, tmp_path)
        assert work(run, inference, OPTIONS) and inference.is_correct()
        assert len(inference.computed()) == 100 - kept


def test_needs_no_torch() -> None:
    code = "import sys, lmrc.inference.run_worker; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
