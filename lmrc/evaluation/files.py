"""Files of the evaluation: JSON lists read as a stream, texts that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import ijson

from lmrc.corpus.source import reading
from lmrc.errors import UserError


def json_list(path: str | Path, expected: str) -> Iterator[Any]:
    """The elements of a JSON file (also gzipped: .gz) that holds one list, in constant memory.

    `expected` completes the sentence "expected …" of the errors.

    Raises:
        UserError: the file is missing or unreadable, empty, not JSON, or not a list.
    """
    with reading(path) as file:
        begin = file.tell()
        while (first := file.read(1)).isspace():
            pass
        # Of any other value ijson would find no elements and say nothing.
        if first != b"[":
            raise UserError(f"{path}: {'is empty' if first == b'' else 'holds no JSON list'}; expected {expected}")
        file.seek(begin)
        items = ijson.items(file, "item", use_float=True)
        count = 0
        while True:
            try:
                item = next(items)
            except StopIteration:
                return
            except (ijson.JSONError, UnicodeDecodeError) as error:
                reason = str(error).removeprefix("b'").replace("\\n", "\n").splitlines()[0].strip()
                raise UserError(
                    f"{path}: is not valid JSON after {count:,} elements ({reason}); expected {expected}"
                ) from None
            yield item
            count += 1


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[str]]:
    """A UTF-8 text file that takes the place of `path` when the block ends well, and vanishes when it does not.

    Missing parent folders are made.

    Raises:
        UserError: the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); what it held before stays") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
