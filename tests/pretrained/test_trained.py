"""Trained models by name, from a stand-in for the hub (`tests.pretrained.test_fetch.FakeHub`)."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from lmrc.api import CandidateModel
from lmrc.cli.main import main
from lmrc.common.errors import UserError
from lmrc.pretrained import fetch as module
from lmrc.pretrained.trained import find_trained, is_hub_name


@pytest.mark.parametrize("given", ["runs/rcp/best", "../b", "/a/b", "~/b", "rcp", "here/rcp"])
def test_paths_are_not_names(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()  # so here/rcp is a path with a typing error
    assert find_trained(Path(given)) == Path(given)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("roberta-large", True),
        ("my-group/rcp", True),
        ("./my-group/rcp", False),
        ("/a/b", False),
        ("../b", False),
        ("~/b", False),
        ("runs/rcp/best", False),
        ("embedded:minilm", False),
        ("here/rcp", False),
    ],
)
def test_names_on_the_hub(model: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "rcp").mkdir(parents=True)
    assert is_hub_name(model) == expected


@pytest.mark.parametrize(
    "words",
    [
        ["propose", "--corpus", "docs", "--rcp", "./my-group/rcp", "--where", "here"],
        ["extract", "docs.json", "--rcp", "./my-group/rcp", "--rc", "rc", "--out", "out.json"],
    ],
)
def test_a_path_with_a_dot_is_never_a_name(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    assert main(words) == 2
    assert f"{tmp_path / 'my-group/rcp'} is no folder" in capsys.readouterr().err
    with pytest.raises(UserError, match="is no folder"):
        CandidateModel.load("./my-group/rcp")


def test_a_name_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def download(name: str, local_files_only: bool = False, **_: object) -> str:
        asked.append(local_files_only)
        if local_files_only and len(asked) == 1:
            raise LocalEntryNotFoundError("not in the cache")
        return str(tmp_path / name)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(module.huggingface_hub, "list_repo_files", lambda name: ["config.json"])
    assert find_trained(Path("my-group/rcp")) == tmp_path / "my-group/rcp"
    assert asked == [True, False]
    assert find_trained(Path("my-group/rcp")) == tmp_path / "my-group/rcp"
    assert asked == [True, False, True]


@pytest.mark.parametrize(
    "words",
    [
        ["propose", "--corpus", "docs", "--rcp", "my-group/rcp"],
        ["classify", "--corpus", "docs", "--rc", "my-group/rcp"],
        ["extract", "docs.json", "--rcp", "my-group/rcp", "--rc", "rc", "--out", "out.json"],
    ],
)
def test_commands_take_names(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cached").mkdir()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path / "cached"))
    assert main(words) == 2
    assert f"{tmp_path / 'cached'} holds no " in capsys.readouterr().err
