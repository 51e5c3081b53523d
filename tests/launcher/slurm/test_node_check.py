from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import threading
from pathlib import Path

import pytest
import torch

from lmrc.launcher.slurm import node_check
from lmrc.launcher.slurm.node_check import check_gpus, check_host, check_product
from lmrc.runs.failures import BrokenNode

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "log").mkdir()
    (tmp_path / "config.yaml").write_text("run: {}\n")
    return tmp_path


def test_healthy_host_passes_and_leaves_no_file(run: Path) -> None:
    check_host(run)
    assert list((run / "log").iterdir()) == []


def test_little_memory(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo = tmp_path / "meminfo"
    monkeypatch.setattr(node_check, "MEMORY_FILE", meminfo)
    check_host(run)  # another system than Linux
    meminfo.write_text("MemTotal: 9999999999 kB\nMemAvailable:    1048576 kB\n")
    with pytest.raises(BrokenNode, match=r"node check: 1\.0 GiB of host memory are available, 2\.0 are needed"):
        check_host(run)


def test_temporary_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(run)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**29))
    with pytest.raises(BrokenNode, match=r"0\.5 GiB are free in "):
        check_host(run)

    def read_only() -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    with pytest.raises(BrokenNode, match="no temporary file can be written: Read-only file system"):
        check_host(run)


def test_stale_run_folder_is_the_nodes_fault_and_a_quota_is_not(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = errno.ESTALE

    def fail(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(BrokenNode, match=f"the shared folder {re.escape(str(run))} does not work: Stale file handle"):
        check_host(run)
    number = errno.EDQUOT
    with pytest.raises(OSError, match="quota"):
        check_host(run)
    assert list((run / "log").iterdir()) == []
    monkeypatch.undo()
    (run / "config.yaml").write_text("")
    with pytest.raises(BrokenNode, match="is empty"):
        check_host(run)
    (run / "config.yaml").unlink()
    with pytest.raises(BrokenNode, match="No such file"):
        check_host(run)


def test_hanging_file_server(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()
    monkeypatch.setattr(node_check, "FOLDER_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(os, "fsync", lambda _: end.wait(30))
    with pytest.raises(BrokenNode, match=r"cannot write and read .* within 0 s"):
        check_host(run)
    end.set()


def test_product(monkeypatch: pytest.MonkeyPatch) -> None:
    check_product(CPU)
    right = torch.Tensor.__matmul__
    calls: list[int] = []

    def wrong_once(left: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        product = right(left, other)
        if not calls:
            product[7, 9] += 1
        calls.append(1)
        return product

    monkeypatch.setattr(torch.Tensor, "__matmul__", wrong_once)
    with pytest.raises(BrokenNode, match="cpu computes a wrong product"):
        check_product(CPU)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "another program fills cpu: CUDA out of memory"),
        (RuntimeError("CUDA error: unspecified launch failure\nmore"), "cpu does not work: CUDA error: unspecified"),
    ],
)
def test_device_that_refuses(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def refuse(*_: object) -> torch.Tensor:
        raise error

    monkeypatch.setattr(torch.Tensor, "to", refuse)
    with pytest.raises(BrokenNode, match=message):
        check_product(CPU)


def with_gpus(monkeypatch: pytest.MonkeyPatch, count: int, visible: str | None) -> list[str]:
    """Pretend that torch has CUDA and sees so many GPUs. Return the list to which checked devices are added."""
    checked: list[str] = []
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(node_check, "check_product", lambda device: checked.append(str(device)))
    monkeypatch.delenv("SLURM_GPUS_ON_NODE", raising=False)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    return checked


def test_gpus_are_skipped_by_a_torch_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = with_gpus(monkeypatch, 0, "0,1")
    monkeypatch.setattr(torch.version, "cuda", None)
    check_gpus(all_visible=True)
    assert checked == []


def test_each_rank_checks_its_gpu_and_a_worker_all(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = with_gpus(monkeypatch, 4, "0,1,2,3")
    monkeypatch.setenv("LOCAL_RANK", "3")
    check_gpus(all_visible=False)
    assert checked == ["cuda:3"]
    check_gpus(all_visible=True)
    assert checked[1:] == ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]


@pytest.mark.parametrize("count", [0, 3])
def test_gpu_that_is_missing(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    checked = with_gpus(monkeypatch, count, "0,1,2,3")
    with pytest.raises(BrokenNode, match=f"{count} of 4 allocated GPUs are usable"):
        check_gpus(all_visible=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "4")
    with pytest.raises(BrokenNode, match=f"{count} of 4 allocated GPUs are usable"):
        check_gpus(all_visible=False)
    assert checked == []


def test_job_without_allocated_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = with_gpus(monkeypatch, 0, None)
    check_gpus(all_visible=True)
    assert checked == []
