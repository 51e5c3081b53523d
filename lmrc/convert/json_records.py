"""JSON files of one object per document: JSON Lines, a list, or a single object."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ijson

from lmrc.common.errors import UserError
from lmrc.common.files import reading
from lmrc.common.json_stream import describe_json_error

_NAMES: dict[type, str] = {dict: "an object", list: "a list", str: "text", int: "a whole number"}


def json_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file (also gzipped: .gz), one at a time in constant memory.

    Raises:
        UserError: The file is empty, not JSON, or holds something other than objects.
    """
    count = 0
    with reading(path) as stream:
        start = stream.tell()
        while (first := stream.read(1)).isspace():
            pass
        stream.seek(start)
        if not first:
            raise UserError(f"{path}: is empty, expected JSON: a list of documents, or a document per line")
        is_list = first == b"["
        items = ijson.items(stream, "item" if is_list else "", multiple_values=not is_list, use_float=True)
        while True:
            try:
                record = next(items)
            except StopIteration:
                return
            except (ijson.JSONError, UnicodeDecodeError) as error:
                reason = describe_json_error(error)
                raise UserError(f"{path}: is not valid JSON after {count:,} documents ({reason})") from None
            if not isinstance(record, dict):
                raise UserError(f"{path}: document {count} is {describe(record)}, expected an object")
            yield record
            count += 1


def describe(value: object) -> str:
    """Return the kind of a JSON value for a message."""
    return _NAMES.get(type(value), repr(value))


def member(record: Any, key: str, kind: type, where: str) -> Any:
    """Return a value of an object.

    Args:
        where: Begin of the messages, such as the file and the document.

    Raises:
        UserError: It is missing or of another kind.
    """
    if not isinstance(record, dict):
        raise UserError(f"{where} is {describe(record)}, expected an object with {key}")
    if key not in record:
        raise UserError(f"{where}: {key} is missing; it has {', '.join(sorted(record)[:12]) or 'nothing'}")
    # Not isinstance: True is an int in Python, but not in JSON.
    if type(record[key]) is not kind:
        raise UserError(f"{where}: {key} is {describe(record[key])}, expected {_NAMES[kind]}")
    return record[key]


def list_of(record: Any, key: str, where: str) -> list[Any]:
    """Return a list of an object; an empty one if its key is absent or null.

    Raises:
        UserError: It is something else.
    """
    if isinstance(record, dict) and record.get(key) is None:
        return []
    return list(member(record, key, list, where))


def tokens_of(raw: Any, where: str) -> list[str]:
    """Return a list of tokens.

    Raises:
        UserError: It is something else.
    """
    if not isinstance(raw, list) or not all(isinstance(token, str) for token in raw):
        raise UserError(f"{where} is no list of tokens")
    return raw
