"""The Makefile with stand-ins for Python: which one makes .venv, and when .venv is made anew."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

PYTHON = """#!/bin/sh
case "$*" in
  *"< (3, 10)"*) exit {old} ;;
  *print*) echo {version} ;;
  --version) echo Python {version}.1 ;;
  "-m venv .venv")
    mkdir -p .venv/bin; cp "$0" .venv/bin/python
    printf '#!/bin/sh\\n' | tee .venv/bin/pip > .venv/bin/lmrc
    chmod +x .venv/bin/* ;;
esac
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The files that `make` looks at, and three Pythons."""
    for name in ("Makefile", "setup.cfg", "pyproject.toml", "constraints.txt", "requirements-embedded.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    for version in ("3.9", "3.11", "3.12"):
        path = tmp_path / f"python{version}"
        path.write_text(PYTHON.format(version=version, old=int(version == "3.9")))
        path.chmod(0o755)
    return tmp_path


def make(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{home}:{os.defpath}"}
    return subprocess.run(["make", "-s", *words], cwd=home, env=environment, capture_output=True, text=True)


def version_of(home: Path) -> str:
    return subprocess.run([home / ".venv/bin/python", "-c", "print"], capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize(("python", "found"), [("python3.9", "Python 3.9.1"), ("python3.99", "not there")])
def test_a_wrong_python_is_refused_before_anything_is_made(home: Path, python: str, found: str) -> None:
    ended = make(home, "demo", f"PYTHON={python}")
    assert ended.returncode == 2
    expected = f"Error: expected Python 3.10 or newer, but {python} is {found}: type make demo PYTHON=python3.11"
    assert expected in ended.stderr
    assert not (home / ".venv").exists()


def test_the_environment_of_a_wrong_python_is_made_anew(home: Path) -> None:
    """It was left by an installation that failed."""
    subprocess.run([home / "python3.9", "-m", "venv", ".venv"], cwd=home, check=True)
    assert version_of(home) == "3.9"
    assert make(home, "demo", "PYTHON=python3.11").returncode == 0
    assert version_of(home) == "3.11"


def test_another_python_is_taken_if_it_is_named(home: Path) -> None:
    make(home, "demo", "PYTHON=python3.11")
    shutil.copy(home / "python3.9", home / "python3")
    for words in (["demo"], ["demo", "PYTHON=python3.11"]):
        assert make(home, *words).stdout == ""  # nothing is made
    (home / "setup.cfg").touch()
    assert make(home, "demo").returncode == 0  # installs into what is there
    assert version_of(home) == "3.11"
    assert make(home, "demo", "PYTHON=python3.12").returncode == 0
    assert version_of(home) == "3.12"
