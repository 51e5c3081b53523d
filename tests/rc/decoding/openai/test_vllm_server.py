"""Mode constrained against a real vLLM server with an adapter, in the environment of `make vllm`."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmrc.config.schema import ClassifyConfig, DecodeOptions, RunOptions, ServerOptions
from lmrc.corpus.predictions import read_predictions
from lmrc.rc.model.adapter import adapter_base
from lmrc.rc.predict import ClassifyInference
from tests.rc.conftest import Learnt

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm"),
]


@pytest.fixture(scope="module")
def url(learnt_wide: Learnt, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a server that has the adapter as the model `rc`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # As `vllm serve`, which the build for CPUs cannot start: it looks for a package with the name vllm.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", adapter_base(learnt_wide.adapter)]
    command += ["--enable-lora", "--lora-modules", f"rc={learnt_wide.adapter}", "--dtype", "float32"]
    command += ["--max-model-len", "4096", "--enforce-eager", "--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path_factory.mktemp("server") / "log"
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with log.open("w") as file:
        server = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        for _ in range(500):
            assert server.poll() is None, log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait()


def test_constrained_answers_and_scores_are_those_of_hf(url: str, learnt_wide: Learnt, tmp_path: Path) -> None:
    found = []
    for backend in ("openai", "hf"):
        config = ClassifyConfig(
            run=RunOptions(name=backend, folder=tmp_path),
            corpus=learnt_wide.corpus.folder,
            rc=learnt_wide.adapter,
            decode=DecodeOptions(backend=backend, mode="constrained"),
            server=ServerOptions(url=url, model="rc", endpoint="completions", key_variable=None),
        )
        inference = ClassifyInference(config)
        inference.finish(iter(inference.rows(range(3))))
        predictions = read_predictions(tmp_path / backend / "predictions.json")
        found.append({(each.title, each.head, each.tail, each.relation): each.score for each in predictions})
    assert len(found[0]) >= 3 and found[0] == pytest.approx(found[1], abs=1e-4)
