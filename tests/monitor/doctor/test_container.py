"""`lmrc doctor --container` with stand-ins for apptainer, for srun of pyxis, and for Python in the image."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from lmrc.cli.main import main
from lmrc.common.check import Check
from lmrc.launcher.preflight import container as preflight
from lmrc.launcher.slurm import commands as slurm
from lmrc.monitor.doctor import examine
from lmrc.monitor.doctor.container import check_given_container

# The part of `apptainer exec` that is used, without a container.
APPTAINER = """#!/bin/sh
shift
while :; do
  case $1 in
    --bind) test -e "${2%%:*}" || { echo "FATAL: no $2" >&2; exit 255; }; shift 2;;
    --pwd) cd "$2"; shift 2;;
    *) break;;
  esac
done
test "$(cat "$1")" = image || exit 255
shift
exec "$@"
"""
# srun with pyxis: the command begins at env.
SRUN = """#!/bin/sh
if [ "$1" = --help ]; then echo "--container-image=[USER@][REGISTRY#]IMAGE[:TAG]"; exit; fi
echo "$@" > {given}
while [ "$1" != env ]; do
  case $1 in --container-workdir=*) cd "${{1#*=}}";; esac
  shift
done
exec "$@"
"""
# Looks for the code of the suite, which is not in the image.
PYTHON = """#!/bin/sh
test "$1" = -c && test -f "$PYTHONPATH/lmrc/launcher/slurm/job.py" && test "$PWD" = "$PYTHONPATH" || exit 3
echo "a warning"
echo "Python 3.12.1 imports lmrc, torch 2.13.0 and transformers 5.23.0"
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder at the beginning of PATH. The working folder is beside it, with an image."""
    folder, home = tmp_path / "programs", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    (home / "image.sif").write_text("image")
    monkeypatch.chdir(home)
    # Without SLURM and the runtimes of this machine, if it has any.
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setattr(preflight, "has_pyxis", lambda: False)
    monkeypatch.setattr("shutil.which", lambda name, **_: str(folder / name) if (folder / name).exists() else None)
    return folder


def install(folder: Path, **scripts: str) -> None:
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


def checks(image: str, partition: str | None = None) -> list[Check]:
    return list(check_given_container(image, partition, None, Path()))


def test_python_starts_in_the_image_with_the_code_of_a_job(programs: Path) -> None:
    install(programs, apptainer=APPTAINER, python3=PYTHON)
    found = checks("image.sif")
    assert [check.level for check in found] == ["ok"] * 3
    assert found[0].what == f"container {Path.cwd() / 'image.sif'}, by apptainer or singularity"
    assert found[2].what == "container image.sif: Python 3.12.1 imports lmrc, torch 2.13.0 and transformers 5.23.0"
    assert [path.name for path in Path.cwd().iterdir()] == ["image.sif"]


@pytest.mark.slow
def test_the_imports_of_a_job(programs: Path) -> None:
    install(programs, apptainer=APPTAINER, python3=f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    assert " imports lmrc, torch 2." in checks("image.sif")[-1].what


def test_image_without_the_packages(programs: Path) -> None:
    error = "ModuleNotFoundError: No module named 'torch'"
    install(programs, apptainer=APPTAINER, python3=f'#!/bin/sh\necho "Traceback" >&2\necho "{error}" >&2\nexit 1\n')
    *_, found = checks("image.sif")
    assert found.level == "missing"
    assert found.what == f"container image.sif: Python in it cannot run a job: {error}"
    assert "containers/lmrc.def" in found.remedy


def test_image_that_is_missing_or_cannot_be_read(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(programs, apptainer="#!/bin/sh\ntouch started\n")
    assert [check.level for check in checks("other.sif")] == ["missing", "ok"]
    # Root may read everything.
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("image.sif"))
    unreadable, _ = checks("image.sif")
    assert unreadable.level == "missing" and "image.sif cannot be read by you: ask its owner" in str(unreadable)
    assert not Path("started").exists()


def test_machine_without_a_runtime(programs: Path) -> None:
    assert [check.level for check in checks("image.sif")] == ["ok", "warning"]


def test_runtime_that_cannot_start(programs: Path) -> None:
    install(programs, apptainer="#!/nowhere/sh\n")
    assert "it does not start" in checks("image.sif")[-1].what


def test_image_of_pyxis_is_started_by_a_job(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "has_pyxis", lambda: True)
    install(programs, srun=SRUN.format(given=programs / "given"), python3=PYTHON)
    assert [check.level for check in checks("nvcr.io#nvidia/pytorch:25.01-py3", "gpu")] == ["ok"] * 3
    given = (programs / "given").read_text()
    assert "--partition=gpu --container-image=nvcr.io#nvidia/pytorch:25.01-py3 --container-mounts=" in given


def test_command_gives_the_image(programs: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    asked: list[Any] = []

    def check(*given: Any) -> list[Check]:
        asked.append(given)
        return [Check("ok", "container")]

    for name in ("check_packages", "check_torch", "check_extras", "check_folders"):
        monkeypatch.setattr(examine, name, lambda: [])
    monkeypatch.setattr(slurm, "is_available", lambda: False)
    monkeypatch.setattr(examine, "check_given_container", check)
    assert main(["doctor", "--container", "image.sif"]) == 0
    assert asked == [("image.sif", None, None, Path())]
    assert main(["doctor", "--container", "image.sif", "--partition", "gpu"]) == 2
    assert "only with --nodes, or with a --container of pyxis" in capsys.readouterr().err
    assert main(["doctor", "--container", "docker://image", "--partition", "gpu"]) == 0
    assert asked[1:] == [("docker://image", "gpu", None, Path())]
