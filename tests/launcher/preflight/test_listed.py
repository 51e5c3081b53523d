"""Every user error that a stage can raise at its start is found by the pre-flight, or a comment says why not."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

LMRC = ROOT / "lmrc"
USER_ERRORS = {"ConfigError", "UserError", "CorpusError", "RunError"}
REASON = "# Not in the pre-flight: "
# Functions that the pre-flight calls, or whose condition it checks itself, by file.
COVERED = {
    "rcp/thresholds.py": {"find_threshold", "find_relation_threshold"},
    "rcp/predict.py": {"ProposeInference.__init__", "ProposeInference._choose_schema"},
    "rcp/data/tokenization.py": {"DocumentTokenizer.__init__"},
    "rcp/task.py": {"RcpTask.__init__", "RcpTask._prepare"},
    "rcp/data/windows.py": {"Windows.of", "Windows.fit"},
    "rc/model/adapter.py": {"read_adapter_config", "adapter_base", "check_adapter", "_config_of", "_shapes"},
    "rc/predict.py": {
        "ClassifyInference.__init__",
        "ClassifyInference._check_backend",
        "ClassifyInference._check_questions",
        "ClassifyInference._choose_schema",
    },
    "rc/answers.py": {"check_answers", "prompt_of", "_check_pairs"},
    "rc/fused.py": {"FusedScores.__init__"},
    "rc/prompts/query_builder.py": {"prompt_ids"},
    "rc/prompts/few_shot.py": {"demonstrations"},
    "rc/model/lora.py": {"quantized", "load_tokenizer", "add_adapter"},
    "rc/prompts/templates.py": {"check_relations", "gold_pairs"},
    "rc/decoding/openai/backend.py": {"ServerGenerator._refuse_without_key"},
    "rc/decoding/openai/client.py": {"ApiKey.__init__", "read_key", "check_body"},
    "rc/model/adapter_metadata.py": {
        "AdapterMetadata.read",
        "AdapterMetadata.read_for",
        "AdapterMetadata.check_corpus",
    },
    "rc/task.py": {"RcTask.__init__", "RcTask._examples"},
    "rc/decoding/vllm_engine.py": {"VllmEngine.__init__", "max_lora_rank"},
    "training/trainer.py": {"Trainer.__init__", "Trainer._evaluate"},
    "pretrained/weights.py": {"check_headers"},
    "training/backends/zero_config.py": {"read_zero_config"},
    "training/trackers/base.py": {"check_trackers"},
    "launcher/slurm/container.py": {"mounts"},
}
# Files without code that runs at the start of a stage.
EXCLUDED = (
    *(
        "rc/alignment.py",
        "training/trackers/replay.py",
        "rc/model/merge.py",
        "pretrained/packaged.py",
        "pretrained/tiny.py",
        # Commands of their own: lmrc models fetch, lmrc push, lmrc track, --dry-run --measure.
        "pretrained/fetch.py",
        "pretrained/publish.py",
        "launcher/prediction",
        "launcher/preflight",
    ),
    *(f"launcher/{name}.py" for name in ("allocation", "model_shapes", "batch", "launch", "local", "plan")),
    *(f"launcher/{name}.py" for name in ("pipeline", "chain", "stages", "group/members")),
    *(f"launcher/slurm/{name}.py" for name in ("requeue", "code_snapshot", "submit")),
)


def raised_errors(path: Path) -> Iterator[tuple[str, int]]:
    """Yield each function of a file that raises or returns a user error, and the line."""

    def visit(node: ast.AST, name: str) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            inner = name
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                inner = f"{name}.{child.name}".lstrip(".")
            error = (
                child.exc if isinstance(child, ast.Raise) else child.value if isinstance(child, ast.Return) else None
            )
            if isinstance(error, ast.Call) and getattr(error.func, "id", "") in USER_ERRORS:
                yield inner, child.lineno  # type: ignore[attr-defined]
            yield from visit(child, inner)

    return visit(ast.parse(path.read_text()), "")


def files() -> list[str]:
    folders = (LMRC / folder for folder in ("rcp", "rc", "training", "pretrained", "launcher"))
    names = [path.relative_to(LMRC).as_posix() for folder in folders for path in sorted(folder.rglob("*.py"))]
    return [name for name in names if not name.startswith(EXCLUDED)]


@pytest.mark.parametrize("name", files())
def test_user_errors_are_covered_by_the_preflight(name: str) -> None:
    lines = (LMRC / name).read_text().splitlines()
    unlisted = [
        f"{name}:{line} {function}"
        for function, line in raised_errors(LMRC / name)
        if function not in COVERED.get(name, set()) and REASON not in lines[line - 2]
    ]
    assert not unlisted, f"check it in the pre-flight, or write '{REASON}why' above it"


def test_listed_functions_exist() -> None:
    for name, functions in COVERED.items():
        assert functions <= {function for function, _ in raised_errors(LMRC / name)}, name


def test_an_unknown_metric_is_refused_when_options_are_read() -> None:
    from lmrc.common.errors import ConfigError
    from lmrc.config.loader import parse
    from lmrc.config.schema import RcConfig, RcpConfig

    for tree, metric in ((RcpConfig, "token_accuracy"), (RcConfig, "f1")):
        with pytest.raises(ConfigError, match=r"train\.metric is"):
            parse(tree, ["--train.metric", metric], {})
