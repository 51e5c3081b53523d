"""Arrows point one way: launch → cluster → (rcp | rc) → engine, and everything → corpus, config."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

FORBIDDEN = {
    "corpus": {"rcp", "rc", "engine", "cluster", "evaluation", "demo", "extract", "cli"},
    "engine": {"rcp", "rc", "cluster", "evaluation", "demo", "extract", "cli"},
    "rcp": {"rc", "cluster", "demo", "extract", "cli"},
    "rc": {"rcp", "cluster", "demo", "extract", "cli"},
    "evaluation": {"rcp", "rc", "engine", "cluster", "demo", "extract", "cli"},
    "cluster": {"demo", "extract", "cli"},
}


def modules(path: Path) -> set[str]:
    """Every module below lmrc that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            # What is imported from a package may be a module of it.
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {name for name in names if name.startswith("lmrc.")}
    return found


def imported(path: Path) -> set[str]:
    """The first part below lmrc of each."""
    return {name.split(".")[1] for name in modules(path)}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_arrows_point_one_way(package: str) -> None:
    for path in sorted((ROOT / "lmrc" / package).rglob("*.py")):
        wrong = imported(path) & FORBIDDEN[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports lmrc.{', lmrc.'.join(sorted(wrong))}"


def test_arrows_within_the_cluster() -> None:
    """Workers know nobody else of the cluster, and nobody there knows those who only look on."""
    cluster = ROOT / "lmrc" / "cluster"
    for path in sorted(cluster.rglob("*.py")):
        part = path.relative_to(cluster).parts[0]
        of_cluster = {name for name in modules(path) if name.startswith("lmrc.cluster.")}
        wrong = {name for name in of_cluster if name.startswith("lmrc.cluster.watch") and part != "watch"}
        wrong |= {name for name in of_cluster if not name.startswith("lmrc.cluster.work") and part == "work"}
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_no_circles() -> None:
    """Wherever in a file an import stands."""
    files = {path: path.relative_to(ROOT).with_suffix("") for path in (ROOT / "lmrc").rglob("*.py")}
    names = {path: ".".join(file.parts).removesuffix(".__init__") for path, file in files.items()}
    TopologicalSorter({name: modules(path) & set(names.values()) - {name} for path, name in names.items()}).prepare()


def test_launchers_know_the_cluster_only() -> None:
    for path in sorted((ROOT / "launch").glob("*.py")):
        assert imported(path) == {"cluster"}
        assert len(path.read_text().splitlines()) < 60


@pytest.mark.parametrize("module", ["lmrc.cli", "lmrc.corpus.arrow", "lmrc.evaluation.report", "lmrc.evaluation.runs"])
def test_no_torch_for_data_and_scores(module: str) -> None:
    code = f"import sys, {module}; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_modules_are_short() -> None:
    long = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "lmrc").rglob("*.py")}
    # templates.py is a table of sentences, config.py one of options, cli.py one of commands.
    assert {name for name, lines in long.items() if lines > 300} <= {"templates.py", "config.py", "cli.py"}


@pytest.mark.parametrize("path", sorted((ROOT / "launch").glob("*.py")), ids=lambda path: path.stem)
def test_launchers_without_the_suite_say_what_to_type(path: Path) -> None:
    """As with the Python of the system: -S and -E leave out all that is installed."""
    ended = subprocess.run([sys.executable, "-S", "-E", str(path)], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.endswith("activate the environment first, by typing . .venv/bin/activate\n")
