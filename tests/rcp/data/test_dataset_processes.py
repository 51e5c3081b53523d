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
    """The processes that `parent` has started to work for it; its resource tracker is none of them."""
    found = []
    for task in Path(f"/proc/{parent}/task").iterdir():
        children = map(int, (task / "children").read_text().split())
        found += [child for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]
    return found


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def corpus(make_corpus: MakeCorpus, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """20 documents that make 7 shards, enough for two processes."""
    monkeypatch.setattr(dataset, "DOCS_PER_SHARD", 3)
    monkeypatch.setattr(dataset, "DOCS_PER_PROCESS", 10)
    return make_corpus("twenty", [tiny.document(30, [1, 2], seed=seed, title=str(seed)) for seed in range(20)])


def write(corpus: Corpus, folder: Path, processes: int) -> tuple[dict[str, bytes], str]:
    """The files, and what was said."""
    folder.mkdir()
    stream = io.StringIO()
    shards = write_shards(corpus, DocumentTokenizer(tiny.tokenizer("bert"), 64), folder, processes, stream)
    assert [shard.rows for shard in shards] == [3, 3, 3, 3, 3, 3, 2]
    assert [shard.file for shard in shards] == sorted(file.name for file in folder.iterdir())
    return {file.name: file.read_bytes() for file in folder.iterdir()}, stream.getvalue()


def test_several_processes_write_the_same(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, _ = write(corpus, tmp_path / "alone", 1)
    with monkeypatch.context() as patch:
        # Nothing is left for this process to do.
        patch.setattr(dataset._ShardWriter, "write", None)
        together, _ = write(corpus, tmp_path / "together", 2)
    assert together == alone


def test_a_small_corpus_starts_no_process(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "DOCS_PER_PROCESS", 11)
    monkeypatch.setattr(dataset, "_write_in_parallel", None)
    write(corpus, tmp_path / "out", 8)


def test_what_a_killed_process_leaves_is_done_alone(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, _ = write(corpus, tmp_path / "alone", 1)

    submit = ProcessPoolExecutor.submit

    def deadly(pool: ProcessPoolExecutor, *arguments: Any) -> Any:
        future = submit(pool, *arguments)
        for process in spawned(os.getpid()):
            os.kill(process, signal.SIGKILL)
        return future

    monkeypatch.setattr(ProcessPoolExecutor, "submit", deadly)
    together, said = write(corpus, tmp_path / "together", 2)
    assert together == alone
    assert "was killed; going on with one process" in said


def test_a_pool_that_closes_while_processes_start_is_no_end(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, _ = write(corpus, tmp_path / "alone", 1)

    def closed(pool: ProcessPoolExecutor, *arguments: Any) -> Any:
        raise OSError("handle is closed")

    monkeypatch.setattr(ProcessPoolExecutor, "submit", closed)
    together, said = write(corpus, tmp_path / "together", 2)
    assert together == alone
    assert "was killed; going on with one process" in said


def test_lines_where_there_is_no_terminal(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, said = write(corpus, tmp_path / "quick", 1)
    assert said == ""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    _, said = write(corpus, tmp_path / "slow", 1)
    lines = said.splitlines()
    assert len(lines) == 7
    assert lines[1].startswith(f"{corpus.folder}: word pieces: 6 of 20 documents, ")
    assert lines[1].endswith(" a second")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    terminal = Terminal()
    write_shards(corpus, DocumentTokenizer(tiny.tokenizer("bert"), 64), tmp_path, 1, terminal)
    assert "/20 [" in terminal.getvalue()
    assert " a second" not in terminal.getvalue()


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
    encoder = DocumentTokenizer(tiny.tokenizer("bert"), 64)
    for _ in dataset._write_in_parallel(corpus, encoder, [range(0, 3), range(3, 6)], out, 2):
        print("working", flush=True)
        time.sleep(60)
"""


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(corpus: Corpus, tmp_path: Path) -> None:
    script = tmp_path / "build.py"
    script.write_text(BUILD)
    out = tmp_path / "out"
    out.mkdir()
    starter = subprocess.Popen(
        [sys.executable, str(script), str(corpus.folder), str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
    )
    assert starter.stdout is not None
    assert starter.stdout.readline() == b"working\n"
    started = spawned(starter.pid)
    assert started and all(map(is_running, started))
    starter.kill()
    starter.wait()
    patience = time.monotonic() + 20
    while any(map(is_running, started)):
        assert time.monotonic() < patience, "a process has outlived the one that started it"
        time.sleep(0.05)
