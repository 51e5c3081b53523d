from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lmrc.common import progress
from lmrc.corpus.corpus import Corpus
from lmrc.rcp.data import dataset
from lmrc.rcp.data.dataset import write_shards
from lmrc.rcp.data.tokenization import DocumentTokenizer
from tests.conftest import ROOT
from tests.rcp import tiny
from tests.rcp.conftest import MakeCorpus


def spawned(parent: int) -> list[int]:
    """Return the worker processes of `parent`, without its resource tracker."""
    workers = []
    for task in Path(f"/proc/{parent}/task").iterdir():
        children = map(int, (task / "children").read_text().split())
        workers += [child for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]
    return workers


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def corpus(make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """Return 20 documents in 7 shards, enough for two processes."""
    monkeypatch.setattr(dataset, "DOCS_PER_SHARD", 3)
    monkeypatch.setattr(dataset, "DOCS_PER_PROCESS", 10)
    return make_corpus("twenty", [tiny.document(30, [1, 2], seed=seed, title=str(seed)) for seed in range(20)])


def write(corpus: Corpus, folder: Path, processes: int) -> dict[str, bytes]:
    """Return the content of the shards."""
    folder.mkdir()
    shards = write_shards(corpus, DocumentTokenizer(tiny.tokenizer("bert"), 64), folder, processes, io.StringIO())
    assert [shard.rows for shard in shards] == [3, 3, 3, 3, 3, 3, 2]
    assert [shard.file for shard in shards] == sorted(file.name for file in folder.iterdir())
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_several_processes_write_the_same(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = write(corpus, tmp_path / "alone", 1)
    with monkeypatch.context() as patch:
        # This process must not write any shard.
        patch.setattr(dataset._ShardWriter, "write", None)
        together = write(corpus, tmp_path / "together", 2)
    assert together == alone


def test_small_corpus_uses_one_process(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "DOCS_PER_PROCESS", 11)
    monkeypatch.setattr(dataset, "_write_in_parallel", None)
    write(corpus, tmp_path / "out", 8)


def test_killed_worker_falls_back_to_one_process(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    alone = write(corpus, tmp_path / "alone", 1)

    submit = ProcessPoolExecutor.submit

    def submit_and_kill(pool: ProcessPoolExecutor, *arguments: Any) -> Any:
        future = submit(pool, *arguments)
        for process in spawned(os.getpid()):
            os.kill(process, signal.SIGKILL)
        return future

    monkeypatch.setattr(ProcessPoolExecutor, "submit", submit_and_kill)
    together = write(corpus, tmp_path / "together", 2)
    assert together == alone
    assert "was killed; going on with one process" in caplog.text


@pytest.mark.parametrize("error", [OSError("handle is closed"), ValueError("bad value(s) in fds_to_keep")])
def test_error_while_submitting_falls_back_to_one_process(
    error: Exception,
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    alone = write(corpus, tmp_path / "alone", 1)

    def submit_to_closed_pool(pool: ProcessPoolExecutor, *arguments: Any) -> Any:
        raise error

    monkeypatch.setattr(ProcessPoolExecutor, "submit", submit_to_closed_pool)
    together = write(corpus, tmp_path / "together", 2)
    assert together == alone
    assert "was killed; going on with one process" in caplog.text


def test_progress_lines_without_a_terminal(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write(corpus, tmp_path / "quick", 1)
    assert caplog.messages == []
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    write(corpus, tmp_path / "slow", 1)
    lines = caplog.messages
    assert len(lines) == 7
    assert lines[1].startswith(f"{corpus.folder}: word pieces: 6 of 20 documents, ")
    assert lines[1].endswith(" per second")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_bar_on_a_terminal(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    terminal = Terminal()
    write_shards(corpus, DocumentTokenizer(tiny.tokenizer("bert"), 64), tmp_path, 1, terminal)
    assert "/20 [" in terminal.getvalue()
    assert " per second" not in terminal.getvalue()


BUILD = """
import sys, time
from pathlib import Path
from lmrc.corpus.corpus import Corpus
from lmrc.rcp.data import dataset
from lmrc.rcp.data.tokenization import DocumentTokenizer
from tests.rcp import tiny

if __name__ == "__main__":
    dataset.DOCS_PER_SHARD, dataset.DOCS_PER_PROCESS = 3, 10
    corpus, out = Corpus.open(sys.argv[1]), Path(sys.argv[2])
    tokenizer = DocumentTokenizer(tiny.tokenizer("bert"), 64)
    for _ in dataset._write_in_parallel(corpus, tokenizer, [range(0, 3), range(3, 6)], out, 2):
        print("working", flush=True)
        time.sleep(60)
"""


@pytest.mark.slow
def test_workers_exit_with_their_parent(corpus: Corpus, tmp_path: Path) -> None:
    script = tmp_path / "build.py"
    script.write_text(BUILD)
    out = tmp_path / "out"
    out.mkdir()
    parent = subprocess.Popen(
        [sys.executable, str(script), str(corpus.folder), str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"working\n"
    workers = spawned(parent.pid)
    assert workers and all(map(is_running, workers))
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline, "a worker has outlived its parent"
        time.sleep(0.05)
