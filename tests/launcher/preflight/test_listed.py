"""Every mistake that a stage can name at its start is found by the pre-flight, or says why it cannot be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

LMRC = ROOT / "lmrc"
MISTAKES = {"ConfigError", "UserError", "CorpusError", "RunError"}
REASON = "# Not in the pre-flight: "
# Functions that the pre-flight calls, or whose condition it checks itself, by file.
FOUND_BEFORE = {
    "rcp/calibration.py": {"find_threshold"},
    "rcp/markers.py": {"Encoder.__init__"},
    "rcp/train.py": {"RcpTask.__init__", "RcpTask._prepare"},
    "rcp/windows.py": {"Windows.of", "Windows.fit"},
    "rc/adapter.py": {"read_adapter_config", "adapter_base", "check_adapter", "_config_of", "_shapes"},
    "rc/classify.py": {"ClassifyInference.__init__", "ClassifyInference._check_backend"},
    "rc/examples.py": {"prompt_ids", "gold_pairs"},
    "rc/few_shot.py": {"demonstrations"},
    "rc/lora.py": {"quantized", "load_tokenizer", "add_adapter"},
    "rc/prompts.py": {"check_relations"},
    "rc/decoding/openai/backend.py": {"ServerGenerator._refuse_without_key"},
    "rc/decoding/openai/client.py": {"ApiKey.__init__", "read_key", "check_body"},
    "rc/settings.py": {"AdapterMetadata.read", "AdapterMetadata.read_for", "AdapterMetadata.check_corpus"},
    "rc/train.py": {"RcTask.__init__", "RcTask._examples"},
    "rc/decoding/vllm_backend.py": {"VllmBackend._model", "max_lora_rank"},
    "engine/loop.py": {"Trainer.__init__", "Trainer._evaluate"},
    "engine/weights.py": {"check_names"},
    "engine/zero_config.py": {"read_zero_config"},
}
# Not of a stage's start: what runs without the launcher, the launcher itself, and work that is under way.
ELSEWHERE = ("rc/align.py", "rc/merge.py", "cluster/preflight", "cluster/watch", "cluster/work")
LAUNCHER = (
    *("allocation", "architecture", "batch", "launch", "local", "pipeline", "plan", "requeue", "snapshot", "stages"),
    "submit",
)


def mistakes(path: Path) -> Iterator[tuple[str, int]]:
    """The functions of a file that raise or return one of MISTAKES, and the line."""

    def visit(node: ast.AST, name: str) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            inner = name
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                inner = f"{name}.{child.name}".lstrip(".")
            made = child.exc if isinstance(child, ast.Raise) else child.value if isinstance(child, ast.Return) else None
            if isinstance(made, ast.Call) and getattr(made.func, "id", "") in MISTAKES:
                yield inner, child.lineno  # type: ignore[attr-defined]
            yield from visit(child, inner)

    return visit(ast.parse(path.read_text()), "")


def files() -> list[str]:
    parts = (LMRC / part for part in ("rcp", "rc", "engine", "cluster"))
    found = [path.relative_to(LMRC).as_posix() for part in parts for path in sorted(part.rglob("*.py"))]
    launcher = tuple(f"cluster/{name}.py" for name in LAUNCHER)
    return [name for name in found if not name.startswith((*ELSEWHERE, *launcher))]


@pytest.mark.parametrize("name", files())
def test_a_mistake_is_found_before_or_says_why_not(name: str) -> None:
    lines = (LMRC / name).read_text().splitlines()
    unlisted = [
        f"{name}:{line} {function}"
        for function, line in mistakes(LMRC / name)
        if function not in FOUND_BEFORE.get(name, set()) and REASON not in lines[line - 2]
    ]
    assert not unlisted, f"let the pre-flight find it, or write '{REASON}why' above it"


def test_the_list_names_functions_that_are_there() -> None:
    for name, functions in FOUND_BEFORE.items():
        assert functions <= {function for function, _ in mistakes(LMRC / name)}, name


def test_the_metric_of_a_training_is_one_that_its_evaluation_gives() -> None:
    """It is checked when the options are read."""
    from lmrc.common.errors import ConfigError
    from lmrc.config.loader import parse
    from lmrc.config.schema import RcConfig, RcpConfig

    for tree, metric in ((RcpConfig, "token_accuracy"), (RcConfig, "f1")):
        with pytest.raises(ConfigError, match=r"train\.metric is"):
            parse(tree, ["--train.metric", metric], {})
