"""Direction of imports: launch → launcher → (rcp | rc) → training, inference → common."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

# Packages that a package may import. Lower packages come first.
MAY_IMPORT = {
    "common": set[str](),
    "config": {"common"},
    "corpus": {"common"},
    "text": {"common", "corpus"},
    "convert": {"common", "corpus", "text"},
    "kernels": set[str](),
    "usage": {"common"},
    "runs": {"common", "config"},
    "training": {"common", "config", "runs", "usage"},
    "inference": {"common", "config", "runs", "usage"},
    "pretrained": {"common", "corpus", "training"},
    "evaluation": {"common", "config", "corpus", "runs", "usage"},
    "fusion": {"common", "config", "corpus"},
    "export": {"common", "corpus", "evaluation", "text"},
    "rcp": {"common", "config", "corpus", "kernels", "training", "inference", "pretrained", "usage"},
    "rc": {
        *("common", "config", "corpus", "kernels", "runs", "training", "inference", "pretrained", "evaluation"),
        *("fusion", "usage"),
    },
}
MAY_IMPORT["launcher"] = {*MAY_IMPORT}
MAY_IMPORT["demo"] = {"common", "config", "corpus", "evaluation", "launcher", "rc", "rcp", "runs", "training"}
MAY_IMPORT["monitor"] = {"common", "config", "kernels", "runs", "training", "inference", "launcher", "usage"}

# Modules that print, besides cli/: the output of a command. All others log.
MAY_PRINT = (
    "common/exit_codes.py",
    "demo/demo.py",
    "launcher/launch.py",
    "launcher/pipeline.py",
    "launcher/preflight/evaluation.py",  # slurm/eval.sh reads its result
    "launcher/slurm/container.py",  # slurm/eval.sh reads its result
    "launcher/slurm/follow_log.py",  # the log of another process
)


def modules(path: Path) -> set[str]:
    """Return all lmrc modules that a file imports, at the top or inside functions."""
    imports = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            # A name that is imported from a package may be one of its modules.
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        imports |= {name for name in names if name.startswith("lmrc.")}
    return imports


def imported(path: Path) -> set[str]:
    """Return the subpackages of lmrc that a file imports."""
    return {name.split(".")[1] for name in modules(path)}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_direction_of_imports(package: str) -> None:
    allowed = MAY_IMPORT[package] | {package, "__version__"}
    for path in sorted((ROOT / "lmrc" / package).rglob("*.py")):
        wrong = imported(path) - allowed
        assert not wrong, f"{path.relative_to(ROOT)} imports lmrc.{', lmrc.'.join(sorted(wrong))}"


def test_every_package_is_in_the_table() -> None:
    packages = {path.parent.name for path in (ROOT / "lmrc").glob("*/__init__.py")}
    assert packages == {*MAY_IMPORT, "cli"}


def test_no_circular_imports() -> None:
    files = {path: path.relative_to(ROOT).with_suffix("") for path in (ROOT / "lmrc").rglob("*.py")}
    names = {path: ".".join(file.parts).removesuffix(".__init__") for path, file in files.items()}
    TopologicalSorter({name: modules(path) & set(names.values()) - {name} for path, name in names.items()}).prepare()


def test_launchers_import_the_launcher_only() -> None:
    for path in sorted((ROOT / "launch").glob("*.py")):
        assert imported(path) == {"launcher"}
        assert len(path.read_text().splitlines()) < 60


@pytest.mark.parametrize(
    "module", ["lmrc.cli.main", "lmrc.corpus.corpus", "lmrc.evaluation.report.page", "lmrc.evaluation.report.build"]
)
def test_no_torch_for_data_and_scores(module: str) -> None:
    code = f"import sys, {module}; sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_folders_hold_about_a_dozen_modules() -> None:
    for folder in {path.parent for path in (ROOT / "lmrc").rglob("*.py")}:
        names = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
        assert len(names) <= 14, f"{folder.relative_to(ROOT)} has {len(names)} modules: {', '.join(names)}"


def prints(path: Path) -> list[int]:
    """Return the lines with a call of print."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]


def test_only_commands_print() -> None:
    for path in sorted((ROOT / "lmrc").rglob("*.py")):
        name = str(path.relative_to(ROOT / "lmrc"))
        if not name.startswith("cli/") and name not in MAY_PRINT:
            assert not prints(path), f"{path.relative_to(ROOT)}:{prints(path)[0]} prints: use the module's logger"


def test_what_may_print_prints() -> None:
    assert [name for name in MAY_PRINT if not prints(ROOT / "lmrc" / name)] == []


@pytest.mark.parametrize("path", sorted((ROOT / "launch").glob("*.py")), ids=lambda path: path.stem)
def test_launchers_without_the_suite_say_what_to_type(path: Path) -> None:
    """Run as with the system's Python: -S and -E hide all installed packages."""
    ended = subprocess.run([sys.executable, "-S", "-E", str(path)], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.endswith("activate the environment first, by typing . .venv/bin/activate\n")
