"""Tokenized dataset of a corpus, built once, cached on disk and memory-mapped.

The folder `encoded-<hash>` in the user's cache (`lmrc.common.cache`) holds Arrow shards with the columns of
`lmrc.rcp.data.tokenization`. The hash covers the tokenizer's files, the maximum length, the marker, the corpus and the
version of this code. Large corpora are tokenized by several processes.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import TypeAdapter
from transformers import PreTrainedTokenizerBase

from lmrc.common.cache import cached, digest, fingerprint
from lmrc.common.errors import CorpusError
from lmrc.common.progress import DocumentProgress
from lmrc.common.threads import cpus
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.shards import Shard, ShardFolder, write_shard
from lmrc.rcp.data.tokenization import ENCODED_SCHEMA, MARKER, DocumentTokenizer, EncodedDocument

logger = logging.getLogger(__name__)

# Increased whenever `DocumentTokenizer.encode_columns` returns something else for the same documents.
VERSION = 2
SHARDS_FILE = "shards.json"
DOCS_PER_SHARD = 256
# Starting another process takes as long as tokenizing this many documents.
DOCS_PER_PROCESS = 10_000
_SHARDS = TypeAdapter(tuple[Shard, ...])


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A tokenized document with its gold pairs.

    Attributes:
        document: the tokenized document.
        positive: sorted numbers of the pairs with a relation, among the ordered pairs sorted by (h, t).
    """

    document: EncodedDocument
    positive: NDArray[np.int32]

    def targets(self) -> NDArray[np.bool_]:
        """Return the gold labels, [pairs]: True if the pair has a relation."""
        targets = np.zeros(self.document.num_pairs, dtype=np.bool_)
        targets[self.positive] = True
        return targets


class EncodedCorpus:
    """Tokenized dataset in memory-mapped shards; only recently used shards are mapped.

    Attributes:
        lengths: word pieces per document, [documents].
        pair_counts: ordered pairs (h, t), h != t, per document, [documents].
        positive_counts: pairs with a relation per document, [documents].
        cut_mentions: mentions per document whose opening marker is truncated, [documents].
        lost_entities: entities per document whose mentions are all truncated, [documents].
    """

    def __init__(self, folder: Path) -> None:
        """Open the dataset and read the counts of every shard.

        Raises:
            CorpusError: if a shard is damaged.
        """
        self.folder = folder
        try:
            self._shards = ShardFolder(folder, _SHARDS.validate_json((folder / SHARDS_FILE).read_bytes()))
            counts = [_document_counts(batch) for batch in self._shards.batches()]
        except (OSError, ValueError) as error:
            # Not in the pre-flight: the cache is read on the node.
            raise CorpusError(f"{error}. This is a cache: remove {folder}, and it is built again") from None
        self.lengths, self.pair_counts, self.positive_counts, self.cut_mentions, self.lost_entities = np.concatenate(
            counts, axis=1
        )

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, index: int) -> Example:
        """Return an example, whose arrays are read-only views of the mapped file.

        Raises:
            IndexError: if there is no such document.
        """
        batch, row = self._shards.find(index)
        return Example(EncodedDocument.from_row(batch, row), batch.column("positive")[row].values.to_numpy())


def _document_counts(batch: pa.RecordBatch) -> NDArray[np.int64]:
    """Return the five count attributes of `EncodedCorpus`, [5, documents]."""
    lengths, entities, positive = (
        pc.list_value_length(batch.column(name)).to_numpy() for name in ("input_ids", "mentions", "positive")
    )
    mentions = batch.column("mentions").flatten().to_numpy()
    lost = np.bincount(np.repeat(np.arange(len(entities)), entities)[mentions == 0], minlength=len(entities))
    pairs = entities.astype(np.int64) * (entities - 1)
    return np.stack([lengths, pairs, positive, batch.column("cut").to_numpy(), lost])


def load_or_build_dataset(
    corpus: Corpus, tokenizer: DocumentTokenizer, num_processes: int | None = None
) -> EncodedCorpus:
    """Return the tokenized corpus from the cache, and build it first if it is missing.

    If several processes (such as the ranks of a job) call this at once, one builds and the others wait.

    Args:
        corpus: the corpus to tokenize.
        tokenizer: the tokenizer, whose content is part of the cache key.
        num_processes: maximum number of processes; by default, the number of available CPU cores.

    Raises:
        UserError: if the cache cannot be written.
        CorpusError: if the corpus or the cached dataset is damaged.
    """
    # `cached` redirects stderr while it builds.
    stream = sys.stderr

    def build(folder: Path) -> None:
        shards = write_shards(corpus, tokenizer, folder, cpus() if num_processes is None else num_processes, stream)
        (folder / SHARDS_FILE).write_bytes(_SHARDS.dump_json(shards))

    return EncodedCorpus(cached(f"encoded-{_cache_key(corpus, tokenizer)}", build))


def _cache_key(corpus: Corpus, tokenizer: DocumentTokenizer) -> str:
    inputs = {
        "version": VERSION,
        "schema": ENCODED_SCHEMA.to_string(),
        "tokenizer": fingerprint(tokenizer.tokenizer),
        "max_length": tokenizer.max_length,
        "marker": MARKER,
        "corpus": corpus.fingerprint,
    }
    return digest(inputs)[:32]


def write_shards(
    corpus: Corpus, tokenizer: DocumentTokenizer, folder: Path, num_processes: int, stream: TextIO
) -> tuple[Shard, ...]:
    """Tokenize all documents and write them as shards; memory does not grow with their number.

    Args:
        corpus: the corpus to tokenize.
        tokenizer: the tokenizer.
        folder: folder for the shards.
        num_processes: maximum number of processes.
        stream: the progress bar is written to it, if it is a terminal.

    Raises:
        UserError: if a shard cannot be written.
        CorpusError: if the corpus is damaged.
    """
    slices = corpus.slices(DOCS_PER_SHARD)
    num_processes = max(1, min(num_processes, len(slices), len(corpus) // DOCS_PER_PROCESS))
    shards: dict[int, Shard] = {}
    with DocumentProgress(f"{corpus.folder}: word pieces", len(corpus), stream) as progress:
        if num_processes > 1:
            try:
                for index, shard in _write_in_parallel(corpus, tokenizer, slices, folder, num_processes):
                    shards[index] = shard
                    progress.add(shard.rows)
            except BrokenProcessPool:
                # Out of memory, or a signal meant for the whole job. This process writes the remaining shards.
                logger.warning("a tokenization process was killed; going on with one process")
        writer = _ShardWriter(corpus, tokenizer, folder)
        for index, documents in enumerate(slices):
            if index not in shards:
                shards[index] = writer.write(index, documents)
                progress.add(len(documents))
    return tuple(shards[index] for index in range(len(slices)))


class _ShardWriter:
    def __init__(self, corpus: Corpus, tokenizer: DocumentTokenizer, folder: Path) -> None:
        self._corpus = corpus
        self._tokenizer = tokenizer
        self._folder = folder

    def write(self, index: int, documents: range) -> Shard:
        batch = self._tokenizer.encode_columns(self._corpus.columns(documents))
        return write_shard(self._folder, index, batch, out=self._folder.parent)


def _write_in_parallel(
    corpus: Corpus, tokenizer: DocumentTokenizer, slices: list[range], folder: Path, num_processes: int
) -> Iterator[tuple[int, Shard]]:
    """Yield the index and the shard of each slice, in the order of completion.

    Raises:
        BrokenProcessPool: if a process dies or cannot be started.
    """
    others = set(active_children())
    pool = ProcessPoolExecutor(
        num_processes,
        # Forking a process with threads (torch's, the tokenizer's) may deadlock.
        mp_context=get_context("spawn"),
        initializer=_start_worker,
        initargs=(corpus.folder, tokenizer.tokenizer, tokenizer.max_length, folder),
    )
    try:
        try:
            futures = {pool.submit(_write_shard, index, documents): index for index, documents in enumerate(slices)}
        except (OSError, ValueError) as error:
            # If a worker dies while tasks are being submitted, the pool closes its pipes. `submit` then fails with
            # OSError, or with ValueError if a pipe of the new worker has taken the number of a closed one.
            raise BrokenProcessPool(f"no process can be started ({error})") from error
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool:
        # The pool does not end a process that it starts while another one dies, and would wait for it forever.
        for process in set(active_children()) - others:
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


_worker_writer: _ShardWriter


def _start_worker(corpus: Path, tokenizer: PreTrainedTokenizerBase, max_length: int, folder: Path) -> None:
    """Initialize a worker process."""
    global _worker_writer
    # The parent handles Ctrl-C and preemption, and ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    # The processes already use all cores.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker_writer = _ShardWriter(Corpus.open(corpus), DocumentTokenizer(tokenizer, max_length), folder)


def _write_shard(index: int, documents: range) -> Shard:
    return _worker_writer.write(index, documents)


def _exit_with_parent() -> None:
    """Exit as soon as the parent process has died; otherwise this process would wait for tasks forever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
