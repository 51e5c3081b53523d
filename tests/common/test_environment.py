from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lmrc.common import environment as module
from lmrc.common.environment import environment, user_name


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-q", "-m", "first")
    monkeypatch.setattr(module, "PROJECT", tmp_path)
    return tmp_path


def test_it_is_json_and_describes_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["launch/rcp.py", "--nodes", "1"])
    recorded = environment()
    assert json.loads(json.dumps(recorded)) == recorded
    assert recorded["command"] == ["launch/rcp.py", "--nodes", "1"]
    assert recorded["python"] == ".".join(map(str, sys.version_info[:3]))
    assert recorded["packages"]["torch"] == version("torch")
    assert recorded["packages"]["transformers"] == version("transformers")
    assert recorded["cpus"] >= 1
    assert recorded["threads"] == torch.get_num_threads()
    assert recorded["host"] and recorded["platform"]


def test_names_of_users(monkeypatch: pytest.MonkeyPatch) -> None:
    assert user_name(0) == "root"
    assert environment()["user"] == user_name() == user_name(os.geteuid())
    # A container without an entry for the user.
    monkeypatch.setattr(os, "geteuid", lambda: 987654)
    assert user_name() == "user 987654"


def test_memory_is_in_bytes() -> None:
    memory = environment()["memory"]
    assert 2**28 < memory < 2**46


def test_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_do_not_write_me")
    assert "hf_do_not_write_me" not in json.dumps(environment())


def test_the_slurm_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    assert environment()["slurm_job"] == "4711"
    monkeypatch.delenv("SLURM_JOB_ID")
    assert environment()["slurm_job"] is None


def test_commit_and_uncommitted_changes(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert environment()["git"] == {"commit": commit, "dirty": False}
    (checkout / "file").write_text("2")
    assert environment()["git"] == {"commit": commit, "dirty": True}


def test_a_package_inside_another_checkout_has_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = checkout / "site-packages"
    installed.mkdir()
    monkeypatch.setattr(module, "PROJECT", installed)
    assert environment()["git"] is None


def test_a_checkout_without_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init", "-q")
    monkeypatch.setattr(module, "PROJECT", tmp_path)
    assert environment()["git"] == {"commit": None, "dirty": False}


def test_without_git(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert environment()["git"] is None


def test_gpus_and_their_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="A100", total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 550.54.15\necho 550.54.15\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment()["gpus"] == [{"name": "A100", "memory": 80 * 2**30, "driver": "550.54.15"}] * 2
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert [gpu["driver"] for gpu in environment()["gpus"]] == [None, None]


def test_a_machine_without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert environment()["gpus"] == []
