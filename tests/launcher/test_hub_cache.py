from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmrc.config.schema import ClassifyConfig, ClusterOptions, ProposeConfig, RcConfig, RcpConfig
from lmrc.launcher import hub_cache
from lmrc.launcher.environment_variables import variables
from lmrc.launcher.hub_cache import SHELL_CACHE, hub_model, is_complete, snapshot, use_cached_model
from lmrc.launcher.stages import StageConfig

MODEL = ("config.json", "tokenizer.json", "model.safetensors")


def make_cached(cache: Path, name: str, *files: str) -> Path:
    """Write the files of a model in the layout of the hub's cache."""
    folder = cache / f"models--{name.replace('/', '--')}"
    files_folder = folder / "snapshots" / "abc"
    files_folder.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    for file in files:
        (files_folder / file).write_text("{}")
    return files_folder


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Set the environment of a job with cluster.cache_folder. Return its cache and that of the shell."""
    job, shell = tmp_path / "job", tmp_path / "shell"
    monkeypatch.setenv("HF_HUB_CACHE", str(job))
    monkeypatch.setenv(SHELL_CACHE, str(shell))
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    # A job calls it before anything imports the library.
    monkeypatch.delitem(sys.modules, "huggingface_hub", raising=False)
    return job, shell


def rc(**options: object) -> RcConfig:
    return RcConfig.model_validate({"model": {"base": "org/llm"}, **options})


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"HF_HOME": "/hf"},
        {"XDG_CACHE_HOME": "/xdg"},
        {"HF_HUB_CACHE": "$HOME/own", "HF_TOKEN_PATH": "~/secret", "HF_HOME": "/hf"},
        {"HUGGINGFACE_HUB_CACHE": "/old"},
    ],
)
def test_paths_are_those_of_the_library(environment: dict[str, str]) -> None:
    code = "from huggingface_hub.constants import HF_HUB_CACHE, HF_TOKEN_PATH; print(HF_HUB_CACHE, HF_TOKEN_PATH)"
    kept = {name: os.environ[name] for name in ("HOME", "PATH", "LD_LIBRARY_PATH") if name in os.environ}
    ended = subprocess.run([sys.executable, "-c", code], env={**kept, **environment}, capture_output=True, text=True)
    assert ended.stdout.split() == [str(hub_cache.hub_cache(environment)), str(hub_cache.token_path(environment))]


def test_cached_model_needs_no_hub(caches: tuple[Path, Path]) -> None:
    make_cached(caches[0], "org/llm", *MODEL)
    use_cached_model(rc())
    assert (os.environ["HF_HUB_CACHE"], os.environ["HF_HUB_OFFLINE"]) == (str(caches[0]), "1")


def test_model_in_the_cache_of_the_shell_is_used(caches: tuple[Path, Path]) -> None:
    make_cached(caches[0], "org/llm", "config.json", "tokenizer.json")
    make_cached(caches[1], "org/llm", *MODEL)
    use_cached_model(rc())
    assert (os.environ["HF_HUB_CACHE"], os.environ["HF_HUB_OFFLINE"]) == (str(caches[1]), "1")


def test_missing_model_is_fetched_into_the_cache_of_the_job(caches: tuple[Path, Path]) -> None:
    make_cached(caches[1], "org/llm", "config.json", "tokenizer.json")
    use_cached_model(rc())
    assert os.environ["HF_HUB_CACHE"] == str(caches[0])
    assert "HF_HUB_OFFLINE" not in os.environ


def test_exported_choice_is_kept(caches: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    make_cached(caches[0], "org/llm", *MODEL)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    use_cached_model(rc())
    assert os.environ["HF_HUB_OFFLINE"] == "0"


def test_tracker_on_the_hub_keeps_the_network(caches: tuple[Path, Path]) -> None:
    make_cached(caches[1], "org/llm", *MODEL)
    use_cached_model(rc(train={"trackers": ["trackio"]}))
    assert os.environ["HF_HUB_CACHE"] == str(caches[1])
    assert "HF_HUB_OFFLINE" not in os.environ


def test_too_late_after_the_import_of_the_library(caches: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    make_cached(caches[1], "org/llm", *MODEL)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    use_cached_model(rc())
    assert os.environ["HF_HUB_CACHE"] == str(caches[0])


def test_job_does_not_import_the_library_before() -> None:
    code = "import sys, lmrc.launcher.slurm.job; sys.exit('huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_sharded_weights_are_complete_with_all_files(tmp_path: Path) -> None:
    folder = make_cached(tmp_path, "org/llm", "config.json", "tokenizer.model", "a.safetensors")
    assert not is_complete(folder)
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert not is_complete(folder)
    (folder / "b.safetensors").touch()
    assert is_complete(folder)
    assert snapshot("org/llm", tmp_path) == folder
    assert snapshot("org/other", tmp_path) is None


def test_models_of_the_stages(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    cases: list[tuple[StageConfig, str | None]] = [
        (RcpConfig(), "roberta-large"),
        (RcpConfig.model_validate({"model": {"encoder": "embedded:minilm"}}), None),
        (RcpConfig.model_validate({"model": {"encoder": str(tmp_path)}}), None),
        (RcpConfig.model_validate({"model": {"encoder": "runs/rcp/best"}}), None),
        (rc(), "org/llm"),
        (ProposeConfig(), None),
        (ClassifyConfig(rc=tmp_path), "org/base"),
        (ClassifyConfig(rc=tmp_path / "none"), None),
        (ClassifyConfig(rc=tmp_path, system="fused"), "org/base"),
        (ClassifyConfig(rc=tmp_path, system="encoder"), None),
        (ClassifyConfig.model_validate({"rc": None, "base": "org/plain"}), "org/plain"),
    ]
    for config, expected in cases:
        assert hub_model(config) == expected


@pytest.mark.parametrize("home", [{}, {"HF_HOME": "hf"}])
def test_login_token_survives_the_cache_folder(
    home: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shell has a token; a job with cluster.cache_folder, whose caches are elsewhere, still finds it."""
    for name in ("HF_HOME", "HF_TOKEN", "HF_TOKEN_PATH", "XDG_CACHE_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".cache" / "huggingface"
    if home:
        folder = tmp_path / home["HF_HOME"]
        monkeypatch.setenv("HF_HOME", str(folder))
    folder.mkdir(parents=True)
    (folder / "token").write_text("hf_secret")
    chosen = variables(ClusterOptions(cache_folder=str(tmp_path / "scratch"), offline=True, stage_base="$SLURM_TMPDIR"))
    assert chosen["HF_HUB_OFFLINE"] == "1" and chosen["LMRC_STAGE_BASE"] == "$SLURM_TMPDIR"
    code = (
        "from huggingface_hub import constants, get_token; print(get_token(), constants.HF_HUB_CACHE, "
        "constants.HF_HUB_OFFLINE)"
    )
    ended = subprocess.run([sys.executable, "-c", code], env={**os.environ, **chosen}, capture_output=True, text=True)
    assert ended.stdout.split() == ["hf_secret", str(tmp_path / "scratch" / "huggingface" / "hub"), "True"]
