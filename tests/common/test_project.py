from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

from lmrc.common.project import CONFIGS, PROJECT
from tests.conftest import ROOT


def test_configs_of_a_checkout() -> None:
    assert (PROJECT, CONFIGS) == (ROOT, ROOT / "configs")


def test_configs_are_package_data() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = setup["options.package_data"]["lmrc"].split()
    shipped = {path for pattern in patterns for path in (ROOT / "lmrc").glob(pattern)}
    expected = {ROOT / "lmrc" / path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml")}
    assert shipped == {*expected, ROOT / "lmrc" / "py.typed"}


def test_data_files_are_package_data() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    shipped = {
        path
        for package, patterns in setup["options.package_data"].items()
        for pattern in patterns.split()
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    packages = [ROOT / "lmrc" / name for name in ("corpus", "evaluation", "launcher", "rc")]
    data = {path for package in packages for path in package.rglob("*.*") if path.suffix not in (".py", ".pyc")}
    assert data
    assert data <= shipped


def test_configs_of_an_installed_package(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "lmrc", tmp_path / "lmrc", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "configs").mkdir()  # another package's
    code = "from lmrc.common.project import CONFIGS; from lmrc.config.loader import find_config as f; print(CONFIGS); "
    code += "print(f('docred', 'rcp')); print(f('configs/pipeline/smoke.yaml', 'rcp'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env={})
    configs = tmp_path / "lmrc" / "configs"
    assert done.stdout.split() == [
        str(path) for path in (configs, configs / "rcp/docred.yaml", configs / "pipeline/smoke.yaml")
    ], done.stderr
