from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lmrc.common.atomic_io import replacing, replacing_folder, write_atomically, write_bytes
from lmrc.common.errors import RunError


@pytest.mark.parametrize(
    "write", [write_atomically, lambda path, text: write_bytes(path, text.encode())], ids=["text", "bytes"]
)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT], ids=["disk", "quota"])
def test_a_full_disk_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, str], None], code: int
) -> None:
    path = tmp_path / "new folder" / "file"
    write(path, "before")

    def full(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=f"{os.strerror(code)}; free space"):
        write(path, "after")
    assert path.read_text() == "before"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write("new")
        raise RuntimeError
    assert path.read_text() == "old"
    with replacing(path) as file:
        file.write("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"), replacing(tmp_path / "file" / "x.txt") as file:
        file.write("never")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RunError, match="cannot be written"), replacing(tmp_path / "folder") as file:
        file.write("never")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_folder_replaces_the_old_one_only_if_nothing_fails(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with replacing_folder(path) as folder:
        (folder / "old").write_text("")
        assert not path.exists()
    with pytest.raises(RuntimeError), replacing_folder(path) as folder:
        (folder / "half").write_text("")
        raise RuntimeError
    assert [file.name for file in path.iterdir()] == ["old"]
    with replacing_folder(path) as folder:
        (folder / "deeper").mkdir()
        (folder / "deeper" / "new").write_text("")
    assert [file.name for file in path.iterdir()] == ["deeper"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_renamed_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("")
    rename = Path.rename

    def refuse_new(source: Path, target: Path) -> Path:
        if source.name.endswith(".tmp"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", refuse_new)
    with pytest.raises(OSError, match="Input/output error"), replacing_folder(path):
        pass
    assert [file.name for file in path.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_an_existing_folder_is_kept_if_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with replacing_folder(path, keep_existing=True) as late:
        (late / "late").write_text("")
        with replacing_folder(path, keep_existing=True) as early:
            (early / "early").write_text("")
    assert [file.name for file in path.iterdir()] == ["early"]
    assert list(tmp_path.iterdir()) == [path]
