from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from lmrc.config.schema import ClusterOptions
from lmrc.launcher.preflight.hub import ModelLocation, find_model

ANSWERS = {
    "/open/model": (200, {"ETag": '"1"', "X-Repo-Commit": "0" * 40}),
    "/meta-llama/gated": (401, {"X-Error-Code": "GatedRepo"}),
    "/no/model": (404, {"X-Error-Code": "RepoNotFound"}),
}


class Hub(BaseHTTPRequestHandler):
    """A fake hub that serves config.json of three models."""

    def do_HEAD(self) -> None:
        status, headers = ANSWERS[self.path.partition("/resolve/")[0]]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start a fake hub with an empty cache. Return its URL."""
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield url
    server.shutdown()
    server.server_close()


def find(name: str, **options: str) -> ModelLocation:
    return find_model(name, "model.base", ClusterOptions.model_validate(options))


def make_cached(cache: Path, name: str, *files: str) -> Path:
    """Write the files of a model in the layout of the hub's cache."""
    folder = cache / f"models--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    for file in files:
        (snapshot / file).write_text("{}")
    return snapshot


def test_model_only_on_the_hub_is_a_warning(hub: str) -> None:
    found = find("open/model")
    assert (found.folder, found.check.level) == (None, "warning")
    assert "lmrc models fetch open/model" in found.check.remedy


def test_a_gated_model_without_access_is_refused(hub: str) -> None:
    check = find("meta-llama/gated").check
    assert check.level == "missing"
    assert f"accept its license at {hub}/meta-llama/gated, then: hf auth login" in check.remedy


def test_an_unknown_model_is_refused(hub: str) -> None:
    assert "there is no model no/model, neither as a folder here nor on the hub" in find("no/model").check.what


def test_unreachable_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    check = find("roberta-large").check
    assert check.level == "missing" and "the hub cannot be reached" in check.what
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in find("roberta-large").check.what


def test_cache_without_weights_is_a_warning(hub: str, tmp_path: Path) -> None:
    snapshot = make_cached(tmp_path / "cache", "open/model", "config.json")
    assert find("open/model").check.level == "warning"
    (snapshot / "model.safetensors").write_bytes(b"")
    found = find("open/model")
    assert (found.folder, found.check.level) == (snapshot, "ok")


def test_cache_or_folder_with_a_part_of_the_weights(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    snapshot = make_cached(tmp_path / "cache", "open/model", "config.json", "a.safetensors", "training_args.bin")
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    assert find("open/model").check.what == "model.base open/model: on the hub, not complete in the cache"
    assert "weights (model.safetensors) missing" in find(str(snapshot)).check.what
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "open/model is not complete in the cache" in find("open/model").check.what
    (snapshot / "b.safetensors").touch()
    assert find("open/model").check.level == find(str(snapshot)).check.level == "ok"


def test_cache_folder_of_the_job_is_used(hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH_OF_USER", str(tmp_path / "scratch"))
    cache = tmp_path / "scratch" / "huggingface" / "hub"
    make_cached(cache, "open/model", "config.json", "model.safetensors")
    assert find("open/model").check.level == "warning"
    assert find("open/model", cache_folder="$SCRATCH_OF_USER").check.level == "ok"
    assert find("open/model", cache_folder="$ONLY_ON_THE_NODE").check.level == "warning"
    # The job also looks in the cache of the shell that launches it.
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    assert find("open/model", cache_folder=str(tmp_path / "empty")).check.level == "ok"


@pytest.mark.parametrize("name", ["./none", "/none/such", "~/none-such", "runs/x/best"])
def test_paths_are_not_looked_up_on_the_hub(hub: str, name: str) -> None:
    assert f"{name}: no such folder" in find(name).check.what


def test_folder_without_a_model_suggests_best(tmp_path: Path) -> None:
    run = tmp_path / "runs"
    (run / "best").mkdir(parents=True)
    assert "config.json and weights (model.safetensors) missing" in find(str(run)).check.what
    (run / "best" / "config.json").write_text("{}")
    assert find(str(run)).check.remedy == f"did you mean {run / 'best'}?"
    assert "weights (model.safetensors) missing" in find(str(run / "best")).check.what
    (run / "best" / "model.safetensors").write_bytes(b"")
    assert find(str(run / "best")).check.level == "ok"


def test_embedded_models() -> None:
    found = find("embedded:tiny-llm")
    assert found.check.level == "ok" and found.folder is not None
    assert "did you mean tiny-llm?" in find("embedded:tiny-lm").check.what
