"""Folders of Arrow shards with a manifest: how corpora and candidates lie on disk.

A folder holds `shard-00000.arrow …` (Arrow IPC files of one record batch each) and `manifest.json`, which lists every
shard with its rows, bytes and sha256. It is written beside its place and renamed: it exists whole or not at all.
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
# Shards that stay mapped at a time: mapped pages count as memory of the process, so this bounds it.
OPEN_SHARDS = 32


class Shard(BaseModel):
    """One file of the folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str = Field(pattern=r"^shard-\d{5,}\.arrow$")
    rows: int = Field(ge=1)
    bytes: int = Field(ge=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class FolderManifest(BaseModel):
    """What every manifest tells; `kind` keeps one sort of folder from being read as another."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    schema_version: int = Field(SCHEMA_VERSION, ge=1)
    documents: int = Field(ge=0)
    docs_per_shard: int = Field(ge=1)
    shards: tuple[Shard, ...]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the manifest's content, in hexadecimal; through the shards' own hashes, of every document."""
        return hashlib.sha256(self.text().encode()).hexdigest()

    def text(self) -> str:
        """The manifest as it is written to the folder: indented JSON."""
        return self.model_dump_json(indent=2) + "\n"


M = TypeVar("M", bound=FolderManifest)


def write_folder(
    out: Path,
    schema: pa.Schema,
    rows: Iterable[Mapping[str, Any]],
    rows_per_shard: int,
    manifest: Callable[[tuple[Shard, ...]], M],
) -> M:
    """Writes `rows` in shards to a new folder and returns its manifest, which `manifest` makes once all rows are drawn.

    At any failure (also of `rows`, also Ctrl-C) nothing is left. Raises UserError where `out` exists and is no empty
    folder, where it cannot be written, or where the disk is full.
    """
    if rows_per_shard < 1:
        raise UserError(f"documents per shard: {rows_per_shard} was given, expected at least 1")
    place = Path(out).absolute()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise _occupied(out)
    temporary = place.with_name(f".{place.name}.tmp-{uuid.uuid4().hex[:12]}")
    try:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
        except OSError as error:
            raise _unwritable(out, error) from None
        shards: list[Shard] = []
        remaining = iter(rows)
        while chunk := list(islice(remaining, rows_per_shard)):
            rows_of_shard = pa.RecordBatch.from_pylist(chunk, schema=schema)
            shards.append(write_shard(temporary, len(shards), rows_of_shard, out))
        made = manifest(tuple(shards))
        _write_file(temporary / MANIFEST, made.text().encode(), out)
        try:
            fsync(temporary)
            temporary.rename(place)
            fsync(place.parent)
        except OSError as error:
            raise (
                _occupied(out) if error.errno in (errno.ENOTEMPTY, errno.EEXIST) else _unwritable(out, error)
            ) from None
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return made


def write_shard(folder: Path, number: int, batch: pa.RecordBatch, out: Path) -> Shard:
    """Writes one shard of the temporary `folder` and waits until it is on the disk.

    Raises UserError, which names the folder `out` that is to be, where it cannot be written or the disk is full.
    """
    path = folder / f"shard-{number:05d}.arrow"
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
    """The manifest of a folder of `kind`. Raises CorpusError where it is missing, damaged, newer or of another kind."""
    path = Path(folder) / MANIFEST
    again = "build it again"
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
        raise CorpusError(f"{path}: is damaged; {again}") from None
    if header.schema_version > SCHEMA_VERSION:
        raise CorpusError(
            f"{folder}: built by a newer version (schema {header.schema_version}, this one reads up to "
            f"{SCHEMA_VERSION}); update this installation or {again} with it"
        )
    if header.kind != kind:
        raise CorpusError(f"{folder}: holds {header.kind}, expected {kind}")
    try:
        manifest = model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CorpusError(f"{path}: is damaged ({place}: {first['msg']}); {again}") from None
    if sum(shard.rows for shard in manifest.shards) != manifest.documents:
        raise CorpusError(f"{path}: is damaged (the rows of the shards are not {manifest.documents}); {again}")
    return manifest


class _Header(BaseModel):
    """What is read first, whatever else a newer version may have added."""

    kind: str
    schema_version: int


class ShardFolder:
    """Rows of a folder by their number. Shards are mapped when first needed and their sha256 is then checked, once."""

    def __init__(self, folder: Path, shards: tuple[Shard, ...]) -> None:
        """Raises CorpusError where a shard is missing or has another size than the manifest says."""
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
        """The record batch that holds a row (negative: from the end), and the row's number in it.

        Raises IndexError beyond the last row and CorpusError where the shard's sha256 differs.
        """
        wanted = row + len(self) if row < 0 else row
        if not 0 <= wanted < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        number = bisect_right(self._ends, wanted)
        return self._batch(number), wanted - self._ends[number] + self.shards[number].rows

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The record batches of all shards in order. Raises CorpusError where the sha256 of one differs."""
        return map(self._batch, range(len(self.shards)))

    def verify(self) -> None:
        """Reads every shard once. Raises CorpusError at the first whose sha256 differs."""
        for number in range(len(self.shards)):
            self._check(number)

    def _check(self, number: int) -> None:
        shard = self.shards[number]
        found = sha256_of(self.folder / shard.file)
        if found != shard.sha256:
            raise self._damaged(shard, f"its sha256 is {found}, the manifest says {shard.sha256}")
        self._checked.add(number)

    def _batch(self, number: int) -> pa.RecordBatch:
        if number in self._batches:
            self._batches.move_to_end(number)
            return self._batches[number]
        if number not in self._checked:
            self._check(number)
        # The mapping outlives the closed file for as long as the batch refers to it, and no longer.
        with pa.memory_map(str(self.folder / self.shards[number].file)) as file:
            batch = pa.ipc.open_file(file).get_batch(0)
        self._batches[number] = batch
        if len(self._batches) > OPEN_SHARDS:
            self._batches.popitem(last=False)
        return batch

    def _damaged(self, shard: Shard, why: str) -> CorpusError:
        return CorpusError(f"{self.folder}: {shard.file} is damaged: {why}; copy or build the folder again")
