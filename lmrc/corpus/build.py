"""Build a corpus from a file of documents."""

from __future__ import annotations

from pathlib import Path
from random import Random

from lmrc.common.errors import UserError
from lmrc.common.files import sha256_of
from lmrc.corpus.corpus import Manifest, write_corpus
from lmrc.corpus.docred import read_documents
from lmrc.corpus.relations import DOCRED, read_relations


def build_corpus(
    documents: Path,
    out: Path,
    relations: Path | None = None,
    docs_per_shard: int = 256,
    sample_size: int | None = None,
    seed: int = 66,
) -> Manifest:
    """Read and check documents in DocRED's JSON format, and write them as the new corpus `out`.

    Args:
        relations: relation set as JSON {id: name}; by default DocRED's 96 relations.
        sample_size: if given, keep only this many documents, sampled with `seed`, in the order of the file.

    Raises:
        UserError: a file is missing or breaks the format, has fewer documents than `sample_size`, or `out` exists.
    """
    relation_set = DOCRED if relations is None else read_relations(relations)
    stream, source = read_documents(documents, relation_set), documents.name
    if sample_size is not None:
        kept = set(sample(sum(1 for _ in stream), sample_size, seed))
        stream = (document for index, document in enumerate(read_documents(documents, relation_set)) if index in kept)
        source = f"{source}, {sample_size} drawn by seed {seed}"
    return write_corpus(stream, out, relation_set, source, sha256_of(documents), docs_per_shard)


def sample(documents: int, count: int, seed: int) -> list[int]:
    """Return `count` different indices below `documents`, ascending. The same arguments give the same indices.

    Raises:
        UserError: there are fewer documents than `count`.
    """
    if count > documents:
        raise UserError(f"cannot sample {count} documents of {documents}: give at most {documents}")
    return sorted(Random(seed).sample(range(documents), count))
