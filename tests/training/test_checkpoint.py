from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmrc.common.errors import RunError
from lmrc.config.schema import Training
from lmrc.training.backends import torch_ddp
from lmrc.training.backends.base import STATE_KEYS, host_copy
from lmrc.training.backends.torch_ddp import TorchDdpBackend
from lmrc.training.checkpoint import Checkpoints, Progress
from lmrc.training.distributed import ALONE, World
from tests.training.toy import ToyTask

NAMES = ("first.weight", "first.bias", "second.weight", "second.bias")
OPTIONS = Training(precision="fp32", backend="torch")


def stepped(scale: float = 1.0) -> TorchDdpBackend:
    """Return a backend after one step with learning rate scale `scale`."""
    task = ToyTask()
    backend = TorchDdpBackend(task, OPTIONS, ALONE)
    backend.backward(backend.loss(task.collate([0, 1, 2])))
    backend.step(scale)
    return backend


def checkpoints(folder: Path, backend: TorchDdpBackend, keep: int = 2) -> Checkpoints:
    return Checkpoints(folder, backend, NAMES, ALONE, keep)


def state(backend: TorchDdpBackend) -> dict[str, torch.Tensor]:
    return {f"{name}/{key}": backend.get(name, key) for name in NAMES for key in STATE_KEYS}


def test_round_trip_is_bit_exact(tmp_path: Path) -> None:
    backend = stepped()
    saved = checkpoints(tmp_path, backend).save(Progress(step=7, best=0.5, best_step=3, fingerprint="toy"))
    assert (tmp_path / "latest").read_text() == "step-000007\n" == saved.name + "\n"
    other = stepped(scale=0.0)
    progress = checkpoints(tmp_path, other).load(saved)
    assert progress == Progress(step=7, best=0.5, best_step=3, fingerprint="toy")
    before, after = state(backend), state(other)
    assert all(torch.equal(before[key], after[key]) for key in before)
    steps = {float(values["step"]) for values in other._optimizer.state.values()}
    assert steps == {7.0}


def test_a_rank_copies_only_what_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = stepped()
    copied: list[int] = []
    host_copy = torch_ddp.host_copy

    def counted(value: torch.Tensor) -> torch.Tensor:
        copied.append(value.numel())
        return host_copy(value)

    monkeypatch.setattr(torch_ddp, "host_copy", counted)
    sizes = [backend.weight(name, copy=False).numel() for name in NAMES]
    for rank in (0, 1):
        copied.clear()
        own = Checkpoints(tmp_path, backend, NAMES, World(rank, 2, torch.device("cpu")), 2)._own_state()
        assert copied == [size for size in sizes[rank::2] for _ in STATE_KEYS]
        assert own.keys() == {f"{name}/{key}" for name in NAMES[rank::2] for key in STATE_KEYS}


def test_a_copy_shares_no_memory() -> None:
    value = torch.ones(3, requires_grad=True)
    copy = host_copy(value)
    with torch.no_grad():
        value.fill_(2.0)
    assert copy.tolist() == [1.0, 1.0, 1.0] and not copy.requires_grad
    assert host_copy(torch.ones(3, dtype=torch.bfloat16)).dtype == torch.float32


def test_frozen_weights_are_not_written(tmp_path: Path) -> None:
    from safetensors import safe_open

    folder = checkpoints(tmp_path, stepped()).save(Progress(step=1))
    with safe_open(folder / "state-00000.safetensors", framework="pt") as tensors:
        assert set(tensors.keys()) == {f"{name}/{key}" for name in NAMES for key in STATE_KEYS}


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    saver = checkpoints(tmp_path, stepped(), keep=2)
    for step in (1, 2, 3, 4):
        saver.save(Progress(step=step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-000003", "step-000004"]


@pytest.mark.parametrize("damage", ["torn tensors", "no manifest", "changed progress", "missing tensors"])
def test_a_damaged_checkpoint_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    saver = checkpoints(tmp_path, stepped())
    good = saver.save(Progress(step=1))
    bad = saver.save(Progress(step=2))
    tensors = bad / "state-00000.safetensors"
    if damage == "torn tensors":
        tensors.write_bytes(tensors.read_bytes()[:-4])
    elif damage == "no manifest":
        (bad / "manifest.json").unlink()
    elif damage == "changed progress":
        (bad / "progress.json").write_text('{"step": 9}')
    else:
        tensors.unlink()
    assert saver.newest() == good
    assert "step-000002 is damaged" in caplog.text


def test_a_killed_save_leaves_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = checkpoints(tmp_path, stepped())
    good = saver.save(Progress(step=1))

    def killed(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed)
        saver.save(Progress(step=2))
    assert saver.newest() == good
    assert saver.save(Progress(step=2)).name == "step-000002"  # in spite of the temporary folder of the killed save


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT], ids=["disk", "quota"])
def test_a_full_disk_is_named_with_rank_and_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    saver = checkpoints(tmp_path, stepped())
    good = saver.save(Progress(step=1))

    def full(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch, pytest.raises(RunError, match=rf"rank 0 on .*{os.strerror(code)}"):
        patch.setattr(os, "fsync", full)
        saver.save(Progress(step=2))
    assert saver.newest() == good


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    saver = checkpoints(tmp_path, stepped())
    manifest = saver.save(Progress(step=1)) / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 99}))
    with pytest.raises(RunError, match="newer version"):
        saver.newest()


def test_a_checkpoint_of_format_1_has_no_evaluation_due(tmp_path: Path) -> None:
    saver = checkpoints(tmp_path, stepped())
    folder = saver.save(Progress(step=1, best=0.5, best_step=1))
    progress = json.loads((folder / "progress.json").read_text())
    assert progress.pop("evaluation_due") is False
    (folder / "progress.json").write_text(json.dumps(progress))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format"] == 2
    manifest["sha256"]["progress.json"] = hashlib.sha256(json.dumps(progress).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 1}))
    assert saver.newest() == folder
    assert saver.load(folder) == Progress(step=1, best=0.5, best_step=1, evaluation_due=False)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = checkpoints(tmp_path, stepped()).save(Progress(step=1))
    with pytest.raises(RunError, match=r"of another model \(second.bias"):
        Checkpoints(tmp_path, stepped(), NAMES[:3], ALONE, 2).load(folder)


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    # A copy would broadcast the tensor silently.
    saver = checkpoints(tmp_path, stepped())
    folder = saver.save(Progress(step=1))
    path = folder / "state-00000.safetensors"
    state = load_file(path)
    key = next(key for key in state if "bias" in key)
    save_file({**state, key: state[key][:1].contiguous()}, path)
    with pytest.raises(RunError, match=r"of another model \(.*bias is \[1\] there, and \[\d+\] here\)"):
        saver.load(folder)
