"""The merge of the parts: by one worker, once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmrc.common.errors import RunError
from lmrc.common.exit_codes import Interrupted
from lmrc.inference.run_worker import clean, work
from lmrc.inference.work_units import encode
from lmrc.runs.lease import Lease
from lmrc.runs.shared_fs import Files
from tests.inference.squares import OPTIONS, SHORT_LEASE, SquaresInference, start


def test_torn_temporary_files_are_not_parts_and_a_damaged_part_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "units"
    folder.mkdir()
    (folder / ".part-00003.arrow.0123456789ab.tmp").write_bytes(b"ARROW1\0\0torn")
    inference = SquaresInference(40, tmp_path)
    with pytest.raises(Interrupted):
        work(tmp_path, inference, OPTIONS, stop=lambda: len(list(folder.glob("part-*"))) == 10)
    damaged = folder / "part-00003.arrow"
    content = damaged.read_bytes()
    three_rows = encode(
        [{"document": document, "square": document**2} for document in range(12, 15)], SquaresInference.schema
    )
    for wrong in (content[:100], (folder / "part-00004.arrow").read_bytes()[:-1], b"", three_rows):
        damaged.write_bytes(wrong)
        with pytest.raises(RunError, match=r"part-00003\.arrow is damaged .* remove it and repeat"):
            work(tmp_path, inference, OPTIONS)
    damaged.unlink()
    # Its claim is by this process, which is alive, so only the expired lease frees the unit.
    assert work(tmp_path, inference, SHORT_LEASE) and inference.is_correct()


def test_only_one_worker_merges_and_another_repeats_it_if_that_one_died(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inference = SquaresInference(40, tmp_path)
    with Lease(tmp_path / "units" / "merge"):
        assert work(tmp_path, inference, OPTIONS) is None
    assert "merges them" in caplog.messages[-1]
    finish = inference.finish

    def die(rows: Iterator[dict[str, Any]]) -> dict[str, Any]:
        next(rows)
        (tmp_path / "output").write_text("half")
        os._exit(9)

    inference.finish = die  # type: ignore[method-assign]
    dying = start(tmp_path, inference)
    dying.join()
    assert dying.exitcode == 9
    inference.finish = finish  # type: ignore[method-assign]
    assert work(tmp_path, inference, OPTIONS) and inference.is_correct()


def test_merged_once_even_if_the_worker_dies_before_done(tmp_path: Path) -> None:
    inference = SquaresInference(40, tmp_path)
    for _ in range(3):
        assert work(tmp_path, inference, OPTIONS) == {"documents": 40}
    assert len((tmp_path / "merges").read_text().splitlines()) == 1


def test_another_worker_cleans_up_between_the_last_unit_and_the_merge(tmp_path: Path) -> None:
    class CleanedMeanwhile(Files):
        """A file system on which another worker finishes the run before the n-th operation of the merge."""

        def __init__(self, operation: int) -> None:
            self.left = operation

        def write(self, path: Path, content: bytes) -> None:
            self._count(path)
            super().write(path, content)

        def read(self, path: Path) -> tuple[bytes, float]:
            self._count(path)
            return super().read(path)

        def link(self, source: Path, target: Path) -> bool:
            self._count(target)
            return super().link(source, target)

        def names(self, folder: Path) -> list[str]:
            self._count(folder)
            return super().names(folder)

        def _count(self, path: Path) -> None:
            if "merge" in str(path):
                self.left -= 1
                if self.left == 0:
                    folder = next(parent for parent in path.parents if parent.name == "units").parent
                    (folder / "DONE").write_text("{}")
                    clean(folder)

    for operation in range(1, 6):
        folder = tmp_path / str(operation)
        folder.mkdir()
        files = CleanedMeanwhile(operation)
        assert work(folder, SquaresInference(8, folder), OPTIONS, files=files) is None, operation
        assert files.left <= 0 and not (folder / "units").exists() and not (folder / "output").exists()


def test_a_stage_that_leaves_out_rows_is_detected(tmp_path: Path) -> None:
    inference = SquaresInference(40, tmp_path)
    inference.finish = lambda rows: {"first": next(rows)["document"]}  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="1 of 40 rows"):
        work(tmp_path, inference, OPTIONS)
