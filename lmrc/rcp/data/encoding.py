"""A corpus to encoded shards, by several processes where it is large."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TextIO

from transformers import PreTrainedTokenizerBase

from lmrc.common.progress import DocumentProgress
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.shards import Shard, write_shard
from lmrc.rcp.data.batched_tokenization import encode_columns
from lmrc.rcp.data.tokenization import DocumentTokenizer

SHARD_DOCUMENTS = 256
# To start another process takes as long as to encode this many documents.
DOCUMENTS_A_PROCESS = 10_000


def write_shards(
    corpus: Corpus, encoder: DocumentTokenizer, folder: Path, processes: int, stream: TextIO
) -> tuple[Shard, ...]:
    """Write all documents in the columns of `lmrc.rcp.data.batched_tokenization` to shards in `folder`; memory does not grow with them.

    At most `processes` work at once. Progress goes to `stream`: a bar on a terminal, otherwise a line a minute.
    Raises UserError where a shard cannot be written, CorpusError where the corpus is damaged.
    """
    slices = corpus.slices(SHARD_DOCUMENTS)
    processes = max(1, min(processes, len(slices), len(corpus) // DOCUMENTS_A_PROCESS))
    shards: dict[int, Shard] = {}
    with DocumentProgress(f"{corpus.folder}: word pieces", len(corpus), stream) as progress:
        if processes > 1:
            try:
                for number, shard in _together(corpus, encoder, slices, folder, processes):
                    shards[number] = shard
                    progress.add(shard.rows)
            except BrokenProcessPool:
                # Out of memory, or a signal that was meant for the whole job: what is left is done here.
                progress.print("a process that made word pieces was killed; going on with one process")
        alone = _Writer(corpus, encoder, folder)
        for number, documents in enumerate(slices):
            if number not in shards:
                shards[number] = alone.write(number, documents)
                progress.add(len(documents))
    return tuple(shards[number] for number in range(len(slices)))


class _Writer:
    def __init__(self, corpus: Corpus, encoder: DocumentTokenizer, folder: Path) -> None:
        self._corpus = corpus
        self._encoder = encoder
        self._folder = folder

    def write(self, number: int, documents: range) -> Shard:
        batch = encode_columns(self._encoder, self._corpus.columns(documents))
        return write_shard(self._folder, number, batch, out=self._folder.parent)


def _together(
    corpus: Corpus, encoder: DocumentTokenizer, slices: list[range], folder: Path, processes: int
) -> Iterator[tuple[int, Shard]]:
    """Each slice's number and shard as they are done. Raises BrokenProcessPool where a process dies."""
    pool = ProcessPoolExecutor(
        processes,
        # A fork of a process with threads (torch's, the tokenizer's) may stand still.
        mp_context=get_context("spawn"),
        initializer=_start,
        initargs=(corpus.folder, encoder.tokenizer, encoder.max_length, folder),
    )
    try:
        try:
            numbers = {pool.submit(_write, number, documents): number for number, documents in enumerate(slices)}
        except OSError as error:
            # Processes start while work is handed out: one that dies then closes the pool under the next one's feet.
            raise BrokenProcessPool(f"no process can be started ({error})") from error
        for done in as_completed(numbers):
            yield numbers[done], done.result()
    finally:
        pool.shutdown(cancel_futures=True)


_writer: _Writer


def _start(corpus: Path, tokenizer: PreTrainedTokenizerBase, max_length: int, folder: Path) -> None:
    """In each new process, once."""
    global _writer
    # Ctrl-C and preemption are the starting process's business, which ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The processes share the cores already.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _writer = _Writer(Corpus.open(corpus), DocumentTokenizer(tokenizer, max_length), folder)


def _write(number: int, documents: range) -> Shard:
    return _writer.write(number, documents)


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for work forever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
