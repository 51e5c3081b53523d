"""Uploads to a stand-in of the hub, by the command in a new process: huggingface_hub reads its environment once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pretrained.hub_server import TOKEN, Hub, running_hub

FILES = {
    "config.json": b"{}",
    "README.md": b"# a card",
    "model.safetensors": b"weights" * 100,
    "calibration.json": b"{}",
}


def training(folder: Path, **changes: bytes | None) -> Path:
    """Write a finished training with these files in best/; None leaves one out."""
    best = folder / "runs" / "rcp" / "best"
    best.mkdir(parents=True)
    for name, content in {**FILES, **{key.replace("__", "."): value for key, value in changes.items()}}.items():
        if content is not None:
            (best / name).write_bytes(content)
    (best.parent / "DONE").write_text("{}")
    return best.parent


def push(hub: str, *words: str | Path, **environment: str) -> tuple[int, str, str]:
    known = {"HF_ENDPOINT": hub, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "lmrc.cli.main", "push", *map(str, words)],
        env={**os.environ, **known, **environment}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


def test_a_finished_training_is_uploaded_and_again(tmp_path: Path, hub: Hub) -> None:
    run = training(tmp_path)
    status, out, _ = push(hub.address, run, "my-group/rcp", "--private")
    assert (status, out) == (0, f"{run} is at {hub.address}/my-group/rcp/commit/abc\n")
    assert hub.files["my-group/rcp"] == FILES
    assert hub.private == {"my-group/rcp": True}
    # The repository exists, and the folder best/ itself is taken too.
    (run / "best" / "README.md").write_bytes(b"# another card")
    assert push(hub.address, run / "best", "my-group/rcp")[0] == 0
    assert hub.files["my-group/rcp"]["README.md"] == b"# another card"


def test_the_hub_refuses(tmp_path: Path, hub: Hub) -> None:
    status, _, error = push(hub.address, training(tmp_path), "my-group/rcp", HF_TOKEN="hf_wrong")
    assert status == 2
    assert "was not uploaded to my-group/rcp: " in error and "401" in error
    assert "Traceback" not in error


def test_what_others_could_not_use_is_refused(tmp_path: Path) -> None:
    from lmrc.common.errors import UserError
    from lmrc.pretrained.publish import push as upload

    for name, changes, sentence in (
        ("no-model", {"config__json": None}, "holds no trained model: give a run folder of lmrc train rcp or rc"),
        ("no-card", {"README__md": None}, r"has no model card \(README\.md\)"),
        ("local", {"adapter_config__json": json.dumps({"base_model_name_or_path": "/data/llama"}).encode()},
         "was trained on /data/llama, which exists on this machine only: lmrc merge"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=sentence):
            upload(training(tmp_path / name, **changes), "my-group/rcp")
    run = training(tmp_path / "unfinished")
    (run / "DONE").unlink()
    with pytest.raises(UserError, match="is not finished: the same launch command goes on with it"):
        upload(run, "my-group/rcp")


@pytest.mark.parametrize(
    ("name", "environment", "sentence"),
    [
        ("rcp", {}, "rcp has no owner: give OWNER/NAME, such as my-group/rcp-docred"),
        ("a//b", {}, "a//b is no name of a model on the hub"),
        ("my-group/rcp", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ("my-group/rcp", {"HF_TOKEN": "", "HF_HOME": "none"}, "no login of the hub was found: run hf auth login"),
    ],
)
def test_what_is_missing_is_said_before_the_upload(
    tmp_path: Path, name: str, environment: dict[str, str], sentence: str
) -> None:
    status, _, error = push("http://127.0.0.1:9", training(tmp_path), name, **environment)
    assert status == 2
    assert sentence in error
