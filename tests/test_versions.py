"""The lowest and the newest versions that are tested are those that setup.cfg promises."""

from __future__ import annotations

import configparser

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.conftest import ROOT


def requirements() -> list[Requirement]:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return [Requirement(line) for line in parser["options"]["install_requires"].splitlines() if line]


def pins(name: str) -> dict[str, Version]:
    lines = (line.partition("==") for line in (ROOT / name).read_text().splitlines() if "==" in line)
    return {package.lower().replace("_", "-"): Version(version) for package, _, version in lines}


@pytest.mark.parametrize("needed", requirements(), ids=lambda needed: needed.name)
def test_bounds_are_the_versions_that_are_tested(needed: Requirement) -> None:
    name = needed.name.lower()
    lowest, newest = pins("constraints-lowest.txt")[name], pins("constraints.txt")[name]
    assert lowest <= newest
    assert newest in needed.specifier
    bounds = [Version(part.version) for part in needed.specifier if part.operator == ">="]
    if name != "torch":  # its lowest version is not run, see setup.cfg
        assert bounds == [lowest]


def test_image_recipes_install_the_tested_versions() -> None:
    install = "pip install -c /opt/lmrc-suite/constraints.txt /opt/lmrc-suite\n"
    docker, apptainer = ((ROOT / "containers" / name).read_text() for name in ("Dockerfile", "lmrc.def"))
    assert install in docker and install in apptainer
    (copied,) = [line.split()[1:-1] for line in docker.splitlines() if line.startswith("COPY constraints.txt")]
    for name in [*copied, "lmrc", "configs"]:
        assert (ROOT / name).exists()
        assert f"\n    {name} /opt/lmrc-suite/{name}\n" in apptainer
    (line,) = [line for line in docker.splitlines() if "apt-get install" in line]
    assert line.strip(" &\\") in apptainer
    (cuda,) = [line.partition("=")[2] for line in docker.splitlines() if line.startswith("ARG CUDA")]
    assert f"From: nvidia/cuda:{cuda}-devel-ubuntu24.04\n" in apptainer
