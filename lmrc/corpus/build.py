"""A corpus from the documents that a user gives."""

from __future__ import annotations

from pathlib import Path

from lmrc.corpus.arrow import Manifest, write_corpus
from lmrc.corpus.docred import read_documents
from lmrc.corpus.relations import DOCRED, read_relations
from lmrc.corpus.source import sha256_of


def build_corpus(documents: Path, out: Path, relations: Path | None = None, docs_per_shard: int = 256) -> Manifest:
    """Read and check documents (DocRED JSON) into the new corpus `out`; without `relations` they are DocRED's 96.

    Raises UserError where a file is missing or breaks the contract, or `out` exists.
    """
    known = DOCRED if relations is None else read_relations(relations)
    return write_corpus(
        read_documents(documents, known), out, known, documents.name, sha256_of(documents), docs_per_shard
    )
