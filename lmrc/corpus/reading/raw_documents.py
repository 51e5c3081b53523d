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
from lmrc.common.json_stream import describe_json_error, json_error_text
from lmrc.corpus.reading.hub_export import in_docred_layout
from lmrc.corpus.reading.known_formats import format_of_keys, format_of_text, remedy
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


class RawDocuments(Iterator[Any]):
    """Documents as JSON decodes them, in DocRED's layout, one at a time in constant memory.

    Attributes:
        starts: index of the first document of each shard that was begun, and its name; empty for a single file.
    """

    def __init__(self, path: str | Path, keys: Collection[str] = ("sents", "vertexSet")) -> None:
        """Look at the first file, so that a wrong one is refused at once.

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
        first, *others = files
        self.starts: list[tuple[int, str]] = [(0, first.name)] if path.is_dir() else []
        self._read = 0
        documents = chain(_of_file(first, keys), chain.from_iterable(self._of_shard(file, keys) for file in others))
        self._documents = map(in_docred_layout, documents)

    def __next__(self) -> Any:
        document = next(self._documents)
        self._read += 1
        return document

    def _of_shard(self, file: Path, keys: Collection[str]) -> Iterator[Any]:
        self.starts.append((self._read, file.name))
        return _of_file(file, keys)


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
            if _are_documents(raw):
                yield from raw
                count += len(raw)
                continue
            if count == 0:
                inside = _documents_inside(raw, path)
                if inside is not None:
                    yield from inside
                    count += len(inside)
                    continue
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
        is_value = (
            byte == b'"' or head.split(None, 1)[0].rstrip(b",") in (b"true", b"false", b"null") or _is_number(head)
        )
        # A line of CoNLL-U begins with a number.
        if is_value and format_of_text(head) is None:
            raise UserError(f"{path}: {_STARTS.get(byte, 'holds a number')}, {EXPECTED}")
        raise _not_json(head, path)
    raise _not_json(byte + stream.read(HEAD), path)


def _not_json(head: bytes, path: Path) -> UserError:
    other = remedy(format_of_text(head), path)
    return UserError(f"{path}: is not JSON: it {describe_start(head)}; {EXPECTED}{other}")


def _is_number(head: bytes) -> bool:
    try:
        float(head.split(None, 1)[0])
    except ValueError:
        return False
    return True


def _is_document(raw: Any) -> bool:
    # Not an object with a text: many formats have such ones inside of their documents.
    return isinstance(raw, dict) and ("sents" in raw or "vertexSet" in raw)


def _are_documents(raw: Any) -> bool:
    """Return True if a value is a list of documents. The check of the format sees the others of a mixed list."""
    return isinstance(raw, list) and bool(raw) and _is_document(raw[0])


def _documents_inside(raw: Any, path: Path) -> list[Any] | None:
    """Return the documents of {"data": [...]} or {title: document}; None if the object is something else.

    Raises:
        UserError: it has several lists of documents, such as a train and a dev set.
    """
    if not isinstance(raw, dict) or not raw or _is_document(raw):
        return None
    if all(map(_is_document, raw.values())):
        return [{"title": title, **value} for title, value in raw.items()]
    lists = {key: value for key, value in raw.items() if _are_documents(value)}
    if len(lists) > 1:
        raise UserError(
            f"{path}: holds {len(lists)} lists of documents, {', '.join(map(repr, lists))}: write each to a file of "
            "its own"
        )
    return next(iter(lists.values()), None)


def _check_first(raw: Any, path: Path, keys: Collection[str]) -> None:
    """Raise UserError if the first value is no document at all, such as a prediction or a fact."""
    if isinstance(raw, dict) and raw.keys().isdisjoint(keys):
        names = ", ".join(map(repr, list(raw)[:5])) or "no keys"
        other = remedy(format_of_keys(raw), path)
        if raw and all(isinstance(value, (str, int)) for value in raw.values()):
            other = other or "; if it is a relation set, give it as --relations"
        raise UserError(
            f"{path}: document 0 is an object with {names}, which is no document; {EXPECTED}, each with title, sents "
            f"and vertexSet{other}"
        )
    if isinstance(raw, dict) and isinstance(raw.get("title"), (dict, list)):
        raise UserError(
            f"{path}: holds columns of a table, and no documents; {EXPECTED}. With pandas: to_json(PATH, "
            "orient='records', lines=True); with the datasets library: to_json(PATH)"
        )
    if isinstance(raw, list) and len(raw) == 3 and all(isinstance(part, str) for part in raw):
        raise UserError(
            f"{path}: holds a list of three texts, as files of training facts do; {EXPECTED}. Facts are given as "
            "lmrc score --train-facts"
        )


def _describe_json_error(error: Exception, path: Path, documents: int) -> str:
    text = json_error_text(error)
    after = f"after {documents:,} documents"
    if "premature EOF" in text or "incomplete JSON" in text:
        return f"the JSON ends in the middle: the file is cut off, {after}"
    if "UTF8" in text and (invalid := invalid_utf8(path)) is not None:
        return f"{describe_encoding(path, *invalid)} ({after})"
    with reading(path) as stream:
        if _PYTHON.match(stream.read(HEAD)):
            return "is not JSON, but Python's notation with single quotes: write it by json.dump"
    return f"is not valid JSON ({describe_json_error(error)}) {after}"


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
