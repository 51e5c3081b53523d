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
