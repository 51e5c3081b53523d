"""Folders with the shards of one set of documents: JSON Lines or Parquet, read in the order of their names."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from lmrc.common.errors import UserError
from lmrc.common.files import sha256_of

# Shards hold one document after the other, so that any number of files is one set.
SHARD_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")

_NUMBERS = re.compile(r"\d+")


def shards(folder: Path) -> list[Path]:
    """Return the shards of a folder in the order of their names; none if it holds no such file.

    Raises:
        UserError: the names differ in more than their numbers, such as train-00000.parquet and test-00000.parquet.
    """
    files = sorted(
        path for path in folder.iterdir() if path.name.endswith(SHARD_SUFFIXES) and not path.name.startswith(".")
    )
    kinds = {_NUMBERS.sub("0", path.name): path.name for path in files}
    if len(kinds) > 1:
        first, second, *_ = kinds.values()
        raise UserError(
            f"{folder}: {first} and {second} are no shards of one set, whose names differ in their numbers only: give "
            "one of the files, or a folder with the shards of one set"
        )
    return files


def sha256_of_documents(path: Path) -> str:
    """Return the SHA-256 of a file of documents, or of the names and sums of a folder's shards.

    Raises:
        UserError: a file cannot be read.
    """
    if not path.is_dir():
        return sha256_of(path)
    sums = "".join(f"{sha256_of(file)}  {file.name}\n" for file in shards(path))
    return hashlib.sha256(sums.encode()).hexdigest()
