"""Fetching of models, with a stand-in for the hub (its contract is in `lmrc.pretrained.fetch`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from lmrc.cli.main import lmrc
from lmrc.common.errors import UserError
from lmrc.config.schema import ClusterOptions
from lmrc.launcher.preflight.hub import find_model
from lmrc.pretrained import fetch as module
from lmrc.pretrained.fetch import fetch, wanted

FILES = ["config.json", "tokenizer.json", "model.safetensors", "pytorch_model.bin", "onnx/model.onnx", ".gitattributes"]


class FakeHub:
    """A hub with one model, which writes the layout of the cache."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, files: list[str] = FILES) -> None:
        self.files = files
        monkeypatch.setattr(module.huggingface_hub, "list_repo_files", self.list_repo_files)
        monkeypatch.setattr(module.huggingface_hub, "snapshot_download", self.snapshot_download)

    def list_repo_files(self, name: str) -> list[str]:
        error: Any = {"org/gated": GatedRepoError, "org/none": RepositoryNotFoundError}.get(name)
        if error is not None:
            raise error("no", response=requests.Response())
        if name == "org/far":
            raise OSError("Network is unreachable\nsecond line")
        return self.files

    def snapshot_download(self, name: str, cache_dir: Path | None, allow_patterns: list[str]) -> str:
        assert cache_dir is not None
        folder = cache_dir / f"models--{name.replace('/', '--')}"
        files = folder / "snapshots" / "abc"
        files.mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("abc")
        for file in self.files:
            if file in allow_patterns:
                (files / file).write_text("{}")
        return str(files)


def test_weights_come_in_one_format() -> None:
    assert wanted(FILES) == ["config.json", "tokenizer.json", "model.safetensors"]
    assert wanted(["config.json", "pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5"]) == [
        "config.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ]


def test_jobs_of_a_site_find_what_was_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeHub(monkeypatch)
    site = ClusterOptions(cache_folder=str(tmp_path / "cache"), offline=True)
    refused = find_model("org/llm", "model.base", site).check
    assert refused.level == "missing" and "lmrc models fetch org/llm" in str(refused.remedy)
    ended = CliRunner().invoke(lmrc, ["models", "fetch", "org/llm", "--cache-folder", str(tmp_path / "cache")])
    assert ended.exit_code == 0 and ended.output.startswith("org/llm: ") and "without" not in ended.output
    found = find_model("org/llm", "model.base", site)
    assert found.check.level == "ok" and found.folder is not None
    assert sorted(path.name for path in found.folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_what_a_model_lacks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeHub(monkeypatch, ["config.json", "model.safetensors"])
    ended = CliRunner().invoke(lmrc, ["models", "fetch", "org/llm", "--cache-folder", str(tmp_path)])
    assert ended.output.rstrip().endswith(", without a tokenizer")


def test_embedded_models_are_made_where_jobs_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LMRC_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "before")  # restored afterwards
    ended = CliRunner().invoke(lmrc, ["models", "fetch", "embedded:tiny-llm", "--cache-folder", str(tmp_path)])
    assert ended.exit_code == 0
    assert next(tmp_path.glob("xdg/lmrc/embedded/tiny-llm-*/model.safetensors")).is_file()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("org/gated", "org/gated is gated: accept its license"),
        ("org/none", "there is no model org/none on the hub"),
        ("org/far", r"org/far could not be fetched \(Network is unreachable\)"),
    ],
)
def test_reasons(name: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeHub(monkeypatch)
    with pytest.raises(UserError, match=problem):
        fetch(name)


def test_a_folder_needs_no_fetching(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder of this machine"):
        fetch(str(tmp_path))


def test_variables_of_the_node_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    ended = CliRunner().invoke(lmrc, ["models", "fetch", "org/llm", "--cache-folder", "$SLURM_TMPDIR/c"])
    assert isinstance(ended.exception, UserError) and "known on the node only" in str(ended.exception)
