"""Encoded corpora: word pieces, features and gold pairs of a corpus, made once and read memory-mapped from the cache.

`encoded-<hash>` in the user's cache (`lmrc.common.cache`) holds Arrow shards in the columns of `lmrc.rcp.data.batched_tokenization`. The hash is
of all that decides the content: the tokenizer's files, the longest length, the marker, the corpus, this code's version.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import TypeAdapter

from lmrc.common.cache import cached, digest, fingerprint
from lmrc.common.errors import CorpusError
from lmrc.common.threads import cpus
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.shards import Shard, ShardFolder
from lmrc.rcp.data.batched_tokenization import SCHEMA
from lmrc.rcp.data.encoding import write_shards
from lmrc.rcp.data.tokenization import MARKER, DocumentTokenizer, EncodedDocument

# Raised whenever `encode_columns` would give something else for the same documents.
VERSION = 2
SHARDS = "shards.json"
_SHARDS = TypeAdapter(tuple[Shard, ...])


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A document and its gold pairs."""

    document: EncodedDocument
    positive: NDArray[np.int32]
    """Sorted numbers of the pairs with a relation, among the ordered pairs sorted by (h, t)."""

    def targets(self) -> NDArray[np.bool_]:
        """[pairs], True where the pair has a relation."""
        targets = np.zeros(self.document.pairs, dtype=np.bool_)
        targets[self.positive] = True
        return targets


class EncodedCorpus:
    """The examples of a corpus. Documents are decoded when asked for; only recently used shards are mapped."""

    def __init__(self, folder: Path) -> None:
        """Reads every shard once. Raises CorpusError where one is damaged."""
        self.folder = folder
        try:
            self._shards = ShardFolder(folder, _SHARDS.validate_json((folder / SHARDS).read_bytes()))
            columns = [_figures(batch) for batch in self._shards.batches()]
        except (OSError, ValueError) as error:
            # Not in the pre-flight: the cache is read on the node.
            raise CorpusError(f"{error}. This is a cache: remove {folder}, and it is made again") from None
        figures: NDArray[np.int64] = np.concatenate(columns, axis=1)
        # Each [documents].
        self.lengths = figures[0]
        """Word pieces."""
        self.pairs = figures[1]
        """Ordered pairs (h, t), h != t."""
        self.positive = figures[2]
        """Pairs with a relation."""
        self.cut = figures[3]
        """Mentions beyond the longest length."""
        self.lost = figures[4]
        """Entities without a mention left."""

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, index: int) -> Example:
        """Its arrays are views of the mapped file, not to be written to. Raises IndexError beyond the last document."""
        batch, row = self._shards.find(index)
        ids, markers, kept, positive, sentences, mentions = (
            batch.column(name)[row].values.to_numpy()
            for name in ("input_ids", "markers", "mentions", "positive", "sentences", "all_mentions")
        )
        places = iter(markers.tolist())
        return Example(
            EncodedDocument(
                input_ids=ids,
                markers=tuple(tuple(next(places) for _ in range(count)) for count in kept.tolist()),
                cut=batch.column("cut")[row].as_py(),
                types=tuple(batch.column("types")[row].as_py()),
                sentences=sentences,
                mentions=mentions,
            ),
            positive,
        )


def _figures(batch: pa.RecordBatch) -> NDArray[np.int64]:
    """The arrays of an encoded corpus, [5, documents]."""
    lengths, entities, positive = (
        pc.list_value_length(batch.column(name)).to_numpy() for name in ("input_ids", "mentions", "positive")
    )
    mentions = batch.column("mentions").flatten().to_numpy()
    lost = np.bincount(np.repeat(np.arange(len(entities)), entities)[mentions == 0], minlength=len(entities))
    pairs = entities.astype(np.int64) * (entities - 1)
    return np.stack([lengths, pairs, positive, batch.column("cut").to_numpy(), lost])


def load_or_build_dataset(corpus: Corpus, encoder: DocumentTokenizer, processes: int | None = None) -> EncodedCorpus:
    """The corpus encoded: from the cache, or made by as many processes as this one has CPU cores, and kept there.

    Several processes (the ranks of a job) may ask at once: one makes it, the others wait. Raises UserError where the
    cache cannot be written, CorpusError where the corpus or what is in the cache is damaged.
    """
    # `cached` hides what is written to stderr while it makes something.
    stream = sys.stderr

    def make(folder: Path) -> None:
        shards = write_shards(corpus, encoder, folder, cpus() if processes is None else processes, stream)
        (folder / SHARDS).write_bytes(_SHARDS.dump_json(shards))

    return EncodedCorpus(cached(f"encoded-{_key(corpus, encoder)}", make))


def _key(corpus: Corpus, encoder: DocumentTokenizer) -> str:
    decides = {
        "version": VERSION,
        "schema": SCHEMA.to_string(),
        "tokenizer": fingerprint(encoder.tokenizer),
        "max_length": encoder.max_length,
        "marker": MARKER,
        "corpus": corpus.fingerprint,
    }
    return digest(decides)[:32]
