"""Tests against `transformers serve` with a tiny model on the CPU."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from lmrc.config.schema import ServerOptions
from lmrc.pretrained.packaged import resolve
from lmrc.rc.decoding.openai.backend import ServerGenerator
from lmrc.rc.prompts.query_builder import Query
from tests.rc.decoding.openai.scripted import messages_of, query

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CHAT_TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"
QUERIES = [
    query(index, f"{name} was born in {birthplace} .", room=8 + index)
    for index, (name, birthplace) in enumerate(
        [("Ada", "Paris"), ("Bob", "the city of Lyon"), ("Zoë", "Malmö"), ("The company", "1998 in Berlin"), ("X", "Y")]
    )
]


class Served(NamedTuple):
    url: str
    model: Path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Start a server with a tiny model. LMRC_SERVE_PYTHON names another Python that has the server's packages."""
    python = os.environ.get("LMRC_SERVE_PYTHON", sys.executable)
    absent = [name for name in ("fastapi", "uvicorn", "openai") if importlib.util.find_spec(name) is None]
    if absent and python == sys.executable:
        pytest.skip(
            f"not installed: {' '.join(absent)} (pip install 'transformers[serving]', or set LMRC_SERVE_PYTHON)"
        )
    folder = tmp_path_factory.mktemp("served") / "tiny"
    shutil.copytree(resolve("embedded:tiny-llm"), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-m", "transformers.cli.transformers", "serve", str(folder), "--device", "cpu"]
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            assert server.poll() is None, "the server has ended"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield Served(f"http://127.0.0.1:{port}/v1", folder)
    finally:
        server.kill()
        server.wait()


def backend(served: Served, endpoint: str, folder: Path) -> ServerGenerator:
    return ServerGenerator(
        ServerOptions(url=served.url, model=str(served.model), endpoint=endpoint, concurrency=2, key_variable=None),
        folder,
    )


def greedy(served: Served, tokenizer: PreTrainedTokenizerBase, queries: list[Query]) -> list[tuple[str, bool]]:
    """Generate without a server. Return each text, and whether it ended with the end of sequence."""
    model = AutoModelForCausalLM.from_pretrained(served.model)
    answers = []
    for asked in queries:
        ids = tokenizer(asked.prompt, return_tensors="pt")["input_ids"]
        output = model.generate(ids, do_sample=False, max_new_tokens=asked.answer_room)[0, ids.shape[1] :].tolist()
        finished = tokenizer.eos_token_id in output
        answers.append((tokenizer.decode(output, skip_special_tokens=True), finished))
    return answers


def test_completions_equal_greedy_generation(served: Served, tmp_path: Path) -> None:
    asked = backend(served, "completions", tmp_path)
    answers = list(asked.generate(QUERIES, messages_of))
    tokenizer = AutoTokenizer.from_pretrained(served.model)
    assert [(answer.text, answer.finished) for answer in answers] == greedy(served, tokenizer, QUERIES)
    assert [answer.query for answer in answers] == QUERIES
    assert asked.usage.prompt_tokens == sum(len(tokenizer(query.prompt)["input_ids"]) for query in QUERIES)
    assert asked.usage.completion_tokens == sum(query.answer_room for query in QUERIES)
    assert (asked.usage.requests, asked.usage.retries) == (5, 0)
    again = backend(served, "completions", tmp_path)
    assert list(again.generate(QUERIES, messages_of)) == answers
    assert (again.usage.requests, again.usage.cached) == (0, 5)


def test_chat_uses_the_chat_template(served: Served, tmp_path: Path) -> None:
    answers = list(backend(served, "chat", tmp_path).generate(QUERIES, messages_of))
    tokenizer = AutoTokenizer.from_pretrained(served.model)
    rendered = [query(asked.document, f"user: {asked.prompt}\nassistant:", asked.answer_room) for asked in QUERIES]
    assert [(answer.text, answer.finished) for answer in answers] == greedy(served, tokenizer, rendered)
