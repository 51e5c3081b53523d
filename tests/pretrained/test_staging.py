"""Copies of models on a node's own disk: one copier, readers that wait, and disks that are full."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from lmrc.pretrained import staging
from lmrc.pretrained.packaged import resolve
from lmrc.pretrained.staging import STAGE_BASE, staged
from lmrc.pretrained.weights import load_model

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the node's disk."""
    monkeypatch.setenv(STAGE_BASE, str(tmp_path / "node"))
    return tmp_path / "node"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a model folder as in the hub's cache: links to files, and weights in two formats."""
    folder, blobs = tmp_path / "shared" / "model", tmp_path / "shared" / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors", "pytorch_model.bin"):
        (blobs / name).write_text(name)
        (folder / name).symlink_to(blobs / name)
    (folder / "onnx").mkdir()
    return folder


def copies(node: Path) -> list[Path]:
    return [path for path in node.glob("*/*") if path.is_dir()]


def test_files_that_loading_reads_are_copied(node: Path, model: Path) -> None:
    copy = Path(staged(str(model)))
    assert copies(node) == [copy]
    assert {path.name: path.read_text() for path in copy.iterdir()} == {
        name: name for name in ("config.json", "tokenizer.json", "model.safetensors")
    }
    assert not any(path.is_symlink() for path in copy.iterdir())
    # A second reader does not need the original.
    (model / "pytorch_model.bin").unlink()
    assert staged(str(model)) == str(copy)


def test_a_changed_model_is_another_copy(node: Path, model: Path) -> None:
    first = staged(str(model))
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").write_text("new weights")
    second = staged(str(model))
    assert first != second and (Path(second) / "model.safetensors").read_text() == "new weights"


def test_without_the_option_nothing_is_copied(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STAGE_BASE, raising=False)
    assert staged(str(model)) == str(model)


@pytest.mark.parametrize("given", ["", "$SLURM_TMPDIR"])
def test_a_variable_that_the_node_lacks_is_named(
    given: str, model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(STAGE_BASE, given)
    assert staged(str(model)) == str(model)
    assert "names no folder on this node" in caplog.text


def _stage(model: str, answers: multiprocessing.Queue[str]) -> None:
    copyfile = staging.shutil.copyfile

    def slow(source: Path, target: Path) -> None:
        with (Path(model).parent / "copied").open("a") as file:
            file.write(f"{source.name}\n")
        time.sleep(0.1)
        copyfile(source, target)

    staging.shutil.copyfile = slow  # type: ignore[assignment]
    answers.put(staged(model))


def test_one_process_of_a_node_copies_and_the_others_wait(node: Path, model: Path) -> None:
    answers: multiprocessing.Queue[str] = FORK.Queue()
    processes = [FORK.Process(target=_stage, args=(str(model), answers)) for _ in range(4)]
    for process in processes:
        process.start()
    found = {answers.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert found == {str(copies(node)[0])}
    assert (model.parent / "copied").read_text().count("\n") == 3


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_falls_back_with_one_line(
    code: int, node: Path, model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    copied: list[str] = []

    def full(source: Path, target: Path) -> None:
        copied.append(source.name)
        target.write_text("half")
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(staging.shutil, "copyfile", full)
    assert [staged(str(model)) for _ in range(3)] == [str(model)] * 3
    # The other processes of the node do not fill the disk again.
    assert len(copied) == 1 and copies(node) == []
    assert caplog.text.count(os.strerror(code)) == 1
    # A later job may.
    monkeypatch.undo()
    monkeypatch.setenv(STAGE_BASE, str(node))
    monkeypatch.setattr(staging, "RETRY_SECONDS", 0.0)
    assert staged(str(model)) != str(model)


def test_a_disk_that_is_too_small_is_not_filled(
    node: Path, model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    monkeypatch.setattr(staging.shutil, "copyfile", lambda *_: pytest.fail("copied"))
    assert staged(str(model)) == str(model)
    assert "GB needed" in caplog.text


def test_a_folder_that_cannot_be_made(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(STAGE_BASE, str(tmp_path / "file" / "below"))
    assert staged(str(model)) == str(model)
    assert "Not a directory" in caplog.text


def test_waiting_for_another_process_has_a_limit(
    node: Path, model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key = Path(staged(str(model))).name
    shutil.rmtree(copies(node)[0])
    monkeypatch.setattr(staging, "WAIT_SECONDS", 0.05)
    with FileLock(node / f"lmrc-models-{os.getuid()}" / f"{key}.lock"):
        assert staged(str(model)) == str(model)
    assert "another process copies it" in caplog.text


def test_what_a_killed_copier_left_is_replaced(node: Path, model: Path) -> None:
    copy = Path(staged(str(model)))
    # Killed before the rename.
    copy.rename(copy.with_name(f"{copy.name}.tmp"))
    (copy.with_name(f"{copy.name}.tmp") / "model.safetensors").write_text("half")
    assert staged(str(model)) == str(copy) and (copy / "model.safetensors").read_text() == "model.safetensors"
    assert copies(node) == [copy]


def test_a_name_that_is_not_in_the_cache_is_left_to_the_hub(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert staged("nobody/nothing") == "nobody/nothing"
    assert not node.exists()


def test_models_are_loaded_from_the_copy_under_their_name(node: Path) -> None:
    from transformers import AutoModel

    source = resolve("embedded:tiny-encoder")
    model = load_model(AutoModel, source, "tiny")
    (copy,) = copies(node)
    assert (copy / "model.safetensors").is_file()
    assert model.name_or_path == model.config.name_or_path == source
