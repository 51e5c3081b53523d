"""Documents of a file or of shards before the check: a JSON list, JSON Lines (both also gzipped), or Parquet."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any

import ijson
import pyarrow as pa
import pyarrow.parquet as pq

from lmrc.common.errors import UserError
from lmrc.common.file_kind import HEAD, PARQUET, describe_encoding, describe_start
from lmrc.common.files import head_of, invalid_utf8, reading
from lmrc.corpus.reading.hub_export import in_docred_layout
from lmrc.corpus.reading.shard_folder import shards
from lmrc.corpus.shards import MANIFEST

REQUIRED = ("title", "sents", "vertexSet")
# Columns of a Parquet file of texts.
TEXT_COLUMNS = ("title", "id", "text", "mentions", "entities")
EXPECTED = "expected documents in DocRED's format: a JSON list, or JSON Lines (one document a line)"
# Files that may hold documents; the content decides how they are read.
SUFFIXES = (".json", ".json.gz", ".jsonl", ".jsonl.gz", ".parquet")

# Documents of a Parquet file in memory at once.
_ROWS = 64
_STARTS = {b'"': "holds a string", b"t": "holds true", b"f": "holds false", b"n": "holds null"}
_PYTHON = re.compile(rb"\s*\[?\s*\{\s*'")
# Files that the `datasets` library writes into a folder.
_DATASET_FILES = ("dataset_dict.json", "dataset_info.json", "state.json")


def raw_documents(path: str | Path, keys: Collection[str] = ("sents", "vertexSet")) -> Iterator[Any]:
    """Yield the documents of a file as JSON decodes them, one at a time in constant memory, in DocRED's layout.

    Args:
        path: the file, or a folder of shards. The content of a file decides how it is read, and not its name.
        keys: the first document must have one of these; otherwise the file is refused.

    Raises:
        UserError: the file cannot be read, is something else (the message says what), or is damaged.
    """
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = [] if _is_of_a_program(path) else shards(path)
        if not files:
            raise UserError(f"{path}: is a folder, expected a file or a folder of shards{_folder_remedy(path)}")
    # The first file now, so that a wrong one is refused at once.
    first, *others = files
    documents = chain(_of_file(first, keys), chain.from_iterable(_of_file(file, keys) for file in others))
    return map(in_docred_layout, documents)


def _of_file(path: Path, keys: Collection[str]) -> Iterator[Any]:
    return _parquet(path, keys) if head_of(path).startswith(PARQUET) else _json(path, keys)


def _is_of_a_program(folder: Path) -> bool:
    return any((folder / name).exists() for name in (*_DATASET_FILES, MANIFEST))


def is_without_list(path: str | Path) -> bool:
    """Return True if the file holds documents without a list around them: JSON Lines or Parquet.

    Raises:
        UserError: the file cannot be read, or is something else.
    """
    if head_of(path).startswith(PARQUET):
        return True
    with reading(path) as stream:
        while (byte := stream.read(1)).isspace():
            pass
        return byte == b"{"


def _folder_remedy(path: Path) -> str:
    if any((path / name).exists() for name in _DATASET_FILES):
        return (
            ": it was written by save_to_disk of the datasets library; load it by load_from_disk and write each split "
            "by to_json or to_parquet"
        )
    if (path / MANIFEST).exists():
        return f": it was written by lmrc, such as a corpus that lmrc data stats {path} describes"
    files = sorted(file.name for file in path.iterdir() if file.name.endswith(SUFFIXES))
    return f": give one of its files, such as {path / files[0]}" if files else ""


def _json(path: Path, keys: Collection[str]) -> Iterator[Any]:
    with reading(path) as stream:
        is_list = _starts_list(stream, path)
        items = ijson.items(stream, "item" if is_list else "", use_float=True, multiple_values=not is_list)
        count = 0
        while True:
            try:
                raw = next(items)
            except StopIteration:
                return
            except ijson.JSONError as error:
                raise UserError(f"{path}: {_describe_json_error(error, path, count)}") from None
            if count == 0:
                _check_first(raw, path, keys)
            yield raw
            count += 1


def _starts_list(stream: IO[bytes], path: Path) -> bool:
    """Return True if the JSON is a list, False if it is an object. Anything else is an error."""
    start = stream.tell()
    while (byte := stream.read(1)).isspace():
        pass
    if byte == b"":
        raise UserError(f"{path}: is empty, {EXPECTED}")
    if byte in b"[{":
        stream.seek(start)
        return byte == b"["
    if byte in _STARTS or byte in b"-0123456789":
        head = byte + stream.read(HEAD)
        if byte == b'"' or head.split(None, 1)[0].rstrip(b",") in (b"true", b"false", b"null") or _is_number(head):
            raise UserError(f"{path}: {_STARTS.get(byte, 'holds a number')}, {EXPECTED}")
        raise UserError(f"{path}: is not JSON: it {describe_start(head)}; {EXPECTED}")
    raise UserError(f"{path}: is not JSON: it {describe_start(byte + stream.read(HEAD))}; {EXPECTED}")


def _is_number(head: bytes) -> bool:
    try:
        float(head.split(None, 1)[0])
    except ValueError:
        return False
    return True


def _check_first(raw: Any, path: Path, keys: Collection[str]) -> None:
    """Raise UserError if the first object is no document at all, such as {"data": [...]} or a prediction."""
    if isinstance(raw, dict) and raw.keys().isdisjoint(keys):
        names = ", ".join(map(repr, list(raw)[:5])) or "no keys"
        remedy = "; lmrc extract reads texts if --out is NAME.jsonl" if "text" in raw else ""
        raise UserError(
            f"{path}: document 0 is an object with {names}, which is no document; {EXPECTED}, each with title, sents "
            f"and vertexSet{remedy}"
        )


def _describe_json_error(error: Exception, path: Path, documents: int) -> str:
    message = error.args[0] if error.args else ""
    text = message.decode(errors="replace") if isinstance(message, bytes) else str(message)
    after = f"after {documents:,} documents"
    if "premature EOF" in text or "incomplete JSON" in text:
        return f"the JSON ends in the middle: the file is cut off, {after}"
    if "UTF8" in text and (invalid := invalid_utf8(path)) is not None:
        return f"{describe_encoding(path, *invalid)} ({after})"
    with reading(path) as stream:
        if _PYTHON.match(stream.read(HEAD)):
            return "is not JSON, but Python's notation with single quotes: write it by json.dump"
    return f"is not valid JSON ({text.partition(chr(10))[0].strip()}) {after}"


def _parquet(path: Path, keys: Collection[str]) -> Iterator[Any]:
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            columns = [name for name in (*REQUIRED, "labels") if name in names]
            if "text" in keys and "text" in names:
                columns = [name for name in TEXT_COLUMNS if name in names]
            elif missing := [name for name in REQUIRED if name not in names]:
                raise UserError(
                    f"{path}: is a Parquet file with the columns {', '.join(names)}; expected {', '.join(REQUIRED)} "
                    f"and optionally labels ({', '.join(missing)} missing)"
                )
            batches = file.iter_batches(batch_size=_ROWS, columns=columns)
            rows = chain.from_iterable(batch.to_pylist() for batch in batches)
            # Columns have no absent keys; for texts null means absent, as for labels in `in_docred_layout`.
            yield from rows if "text" not in columns else map(_without_null, rows)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: damaged Parquet file ({error}); fetch it again") from None


def _without_null(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if value is not None or key == "text"}
