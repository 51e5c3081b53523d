"""A corpus from the documents that a user gives."""

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
    drawn: int | None = None,
    seed: int = 66,
) -> Manifest:
    """Read and check documents (DocRED JSON) into the new corpus `out`; without `relations` they are DocRED's 96.

    `drawn`: only so many of them, drawn by `seed`, in the order of the file.

    Raises UserError where a file is missing or breaks the contract, has fewer documents than shall be drawn, or `out`
    exists.
    """
    known = DOCRED if relations is None else read_relations(relations)
    read, source = read_documents(documents, known), documents.name
    if drawn is not None:
        chosen = set(sample(sum(1 for _ in read), drawn, seed))
        read = (document for index, document in enumerate(read_documents(documents, known)) if index in chosen)
        source = f"{source}, {drawn} drawn by seed {seed}"
    return write_corpus(read, out, known, source, sha256_of(documents), docs_per_shard)


def sample(documents: int, count: int, seed: int) -> list[int]:
    """`count` different indices below `documents`, rising; the same for the same arguments.

    Raises UserError where there are not so many documents.
    """
    if count > documents:
        raise UserError(f"{count} documents shall be drawn, but there are {documents}: draw at most {documents}")
    return sorted(Random(seed).sample(range(documents), count))
