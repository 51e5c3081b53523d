"""Folders of Arrow shards with a manifest: the format of corpora and candidates on disk.

A folder holds `shard-00000.arrow …` (Arrow IPC files of one record batch each) and `manifest.json`, which lists the
rows, bytes and SHA-256 of every shard. It is written under a temporary name and renamed, so it is never incomplete.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lmrc.common.atomic_io import fsync
from lmrc.common.errors import CorpusError, UserError
from lmrc.common.files import sha256_of

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
# Shards that stay mapped. Mapped pages count as memory of the process.
OPEN_SHARDS = 32


class Shard(BaseModel):
    """One file of the folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str = Field(pattern=r"^shard-\d{5,}\.arrow$")
    rows: int = Field(ge=1)
    bytes: int = Field(ge=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class FolderManifest(BaseModel):
    """Fields of every manifest. `kind` tells corpora from candidates."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    schema_version: int = Field(SCHEMA_VERSION, ge=1)
    documents: int = Field(ge=0)
    docs_per_shard: int = Field(ge=1)
    shards: tuple[Shard, ...]

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the manifest, in hexadecimal. It covers all documents through the shards' hashes."""
        return hashlib.sha256(self.text().encode()).hexdigest()

    def text(self) -> str:
        """Return the content of manifest.json."""
        return self.model_dump_json(indent=2) + "\n"


M = TypeVar("M", bound=FolderManifest)


def write_folder(
    out: Path,
    schema: pa.Schema,
    rows: Iterable[Mapping[str, Any]],
    rows_per_shard: int,
    manifest: Callable[..., M],
) -> M:
    """Write rows, which are read once, to a new folder, or nothing on any failure (also of `rows`, also Ctrl-C).

    Args:
        manifest: called after the last row with `documents`, `docs_per_shard` and `shards`; its result is returned.

    Raises:
        UserError: `out` exists and is not an empty folder, it cannot be written, or the disk is full.
    """
    if rows_per_shard < 1:
        raise UserError(f"documents per shard: {rows_per_shard} was given, expected at least 1")
    check_new_folder(out)
    folder = Path(out).absolute()
    temporary = folder.with_name(f".{folder.name}.tmp-{uuid.uuid4().hex[:12]}")
    try:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
        except OSError as error:
            raise _unwritable(out, error) from None
        shards: list[Shard] = []
        remaining = iter(rows)
        while shard_rows := list(islice(remaining, rows_per_shard)):
            batch = pa.RecordBatch.from_pylist(shard_rows, schema=schema)
            shards.append(write_shard(temporary, len(shards), batch, out))
        documents = sum(shard.rows for shard in shards)
        written = manifest(documents=documents, docs_per_shard=rows_per_shard, shards=tuple(shards))
        _write_file(temporary / MANIFEST, written.text().encode(), out)
        try:
            fsync(temporary)
            temporary.rename(folder)
            fsync(folder.parent)
        except OSError as error:
            raise (
                _occupied(out) if error.errno in (errno.ENOTEMPTY, errno.EEXIST) else _unwritable(out, error)
            ) from None
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return written


def check_new_folder(out: Path) -> None:
    """Raise UserError if `out` exists and is not an empty folder."""
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise _occupied(out)


def write_shard(folder: Path, index: int, batch: pa.RecordBatch, out: Path) -> Shard:
    """Write one shard and flush it to the disk.

    Args:
        out: final name of the folder, for messages.

    Raises:
        UserError: the shard cannot be written, or the disk is full.
    """
    path = folder / f"shard-{index:05d}.arrow"
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    content = memoryview(sink.getvalue())
    _write_file(path, content, out)
    return Shard(file=path.name, rows=batch.num_rows, bytes=content.nbytes, sha256=hashlib.sha256(content).hexdigest())


def _write_file(path: Path, content: bytes | memoryview, out: Path) -> None:
    try:
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _unwritable(out, error) from None


def _occupied(out: Path) -> UserError:
    return UserError(f"{out}: exists already and is not an empty folder; remove it or choose another folder")


def _unwritable(out: Path, error: OSError) -> UserError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return UserError(
            f"{out}: no space left to write it ({error.strerror}); nothing was kept: "
            "free some space or choose a folder on another disk, then run the command again"
        )
    return UserError(f"{out}: cannot be written ({error.strerror or error}); choose another folder")


def read_manifest(folder: str | Path, kind: str, model: type[M]) -> M:
    """Read the manifest of a folder of `kind`.

    Raises:
        CorpusError: it is missing, damaged, of another kind, or written by a newer version.
    """
    path = Path(folder) / MANIFEST
    remedy = "build it again"
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if not Path(folder).exists():
            raise CorpusError(f"{folder}: no such folder") from None
        raise CorpusError(f"{folder}: is no {kind} folder: it has no {MANIFEST}") from None
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror or error})") from None
    try:
        header = _Header.model_validate_json(content)
    except ValidationError:
        raise CorpusError(f"{path}: is damaged; {remedy}") from None
    if header.schema_version > SCHEMA_VERSION:
        raise CorpusError(
            f"{folder}: built by a newer version (schema {header.schema_version}, this one reads up to "
            f"{SCHEMA_VERSION}); update this installation or {remedy} with it"
        )
    if header.kind != kind:
        raise CorpusError(f"{folder}: holds {header.kind}, expected {kind}")
    try:
        manifest = model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise CorpusError(f"{path}: is damaged ({field}: {first['msg']}); {remedy}") from None
    if sum(shard.rows for shard in manifest.shards) != manifest.documents:
        raise CorpusError(f"{path}: is damaged (the rows of the shards are not {manifest.documents}); {remedy}")
    return manifest


class _Header(BaseModel):
    """Fields that every version of a manifest has."""

    kind: str
    schema_version: int


class ShardFolder:
    """Rows of a folder by index. A shard is mapped, and its SHA-256 checked, when it is first needed."""

    def __init__(self, folder: Path, shards: tuple[Shard, ...]) -> None:
        """Check that all shards are there.

        Raises:
            CorpusError: a shard is missing, or its size differs from the manifest's.
        """
        self.folder = folder
        self.shards = shards
        self._ends = list(accumulate(shard.rows for shard in shards))
        self._checked: set[int] = set()
        self._batches: OrderedDict[int, pa.RecordBatch] = OrderedDict()
        for shard in shards:
            try:
                size = (folder / shard.file).stat().st_size
            except OSError as error:
                raise CorpusError(
                    f"{folder}: {shard.file} is missing ({error.strerror}); copy or build the folder again"
                ) from None
            if size != shard.bytes:
                raise self._damaged(shard, f"it has {size} bytes, the manifest says {shard.bytes}")

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def find(self, row: int) -> tuple[pa.RecordBatch, int]:
        """Return the record batch that holds a row, and the row's index in it. A negative row counts from the end.

        Raises:
            IndexError: there is no such row.
            CorpusError: the shard's SHA-256 differs.
        """
        position = row + len(self) if row < 0 else row
        if not 0 <= position < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        index = bisect_right(self._ends, position)
        return self._batch(index), position - self._ends[index] + self.shards[index].rows

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the record batches of all shards in order.

        Raises:
            CorpusError: the SHA-256 of one differs.
        """
        return map(self._batch, range(len(self.shards)))

    def verify(self) -> None:
        """Check the SHA-256 of every shard.

        Raises:
            CorpusError: one differs.
        """
        for index in range(len(self.shards)):
            self._check(index)

    def _check(self, index: int) -> None:
        shard = self.shards[index]
        sha256 = sha256_of(self.folder / shard.file)
        if sha256 != shard.sha256:
            raise self._damaged(shard, f"its sha256 is {sha256}, the manifest says {shard.sha256}")
        self._checked.add(index)

    def _batch(self, index: int) -> pa.RecordBatch:
        if index in self._batches:
            self._batches.move_to_end(index)
            return self._batches[index]
        if index not in self._checked:
            self._check(index)
        # The batch keeps the mapping alive after the file is closed.
        with pa.memory_map(str(self.folder / self.shards[index].file)) as file:
            batch = pa.ipc.open_file(file).get_batch(0)
        self._batches[index] = batch
        if len(self._batches) > OPEN_SHARDS:
            self._batches.popitem(last=False)
        return batch

    def _damaged(self, shard: Shard, why: str) -> CorpusError:
        return CorpusError(f"{self.folder}: {shard.file} is damaged: {why}; copy or build the folder again")
