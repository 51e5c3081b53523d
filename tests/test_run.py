from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from lmrc.config import ClusterOptions, RcpConfig, RunOptions
from lmrc.durable import write_atomically
from lmrc.errors import RunError
from lmrc.run import RunFolder


def config(folder: Path, **changes: Any) -> RcpConfig:
    return RcpConfig(run=RunOptions(name="one", folder=folder)).model_copy(update=changes)


def test_a_new_run_records_its_config_and_environment(tmp_path: Path) -> None:
    run = RunFolder.of(config(tmp_path).run)
    assert run.path == tmp_path / "one"
    assert run.prepare(config(tmp_path)) is False
    assert RcpConfig.model_validate(yaml.safe_load((run.path / "config.yaml").read_text())) == config(tmp_path)
    assert "python" in json.loads((run.path / "environment.json").read_text())
    run.checkpoints.mkdir()
    assert run.prepare(config(tmp_path)) is True


def test_what_failed_before_its_first_result_may_start_otherwise(tmp_path: Path) -> None:
    first = config(tmp_path)
    RunFolder.of(first.run).prepare(first)
    other = first.model_copy(update={"train": first.train.model_copy(update={"epochs": 3})})
    assert RunFolder.of(first.run).prepare(other) is False
    assert "epochs: 3" in (tmp_path / "one" / "config.yaml").read_text()


def test_another_config_is_refused_and_the_differing_keys_are_named(tmp_path: Path) -> None:
    first = config(tmp_path)
    run = RunFolder.of(first.run)
    run.prepare(first)
    run.checkpoints.mkdir()
    other = first.model_copy(update={"train": first.train.model_copy(update={"epochs": 3, "learning_rate": 1e-3})})
    with pytest.raises(
        RunError, match=r"train\.epochs \(was 30, now 3\); train\.learning_rate \(was 3e-05, now 0.001\)"
    ):
        RunFolder.of(first.run).prepare(other)


def test_where_it_runs_may_change(tmp_path: Path) -> None:
    first = config(tmp_path)
    run = RunFolder.of(first.run)
    run.prepare(first)
    run.checkpoints.mkdir()
    moved = first.model_copy(
        update={
            "cluster": ClusterOptions(nodes=2, gpus=16),
            "train": first.train.model_copy(update={"zero_stage": 3, "micro_batch_size": 1, "checkpoint_minutes": 1.0}),
        }
    )
    assert RunFolder.of(first.run).prepare(moved) is True


def test_done_holds_the_result(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.result() is None
    run.finish({"best": 1.5})
    assert run.result() == {"best": 1.5}


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, "before")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device; free space"):
        write_atomically(path, "after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
