"""Reader of JSON files that hold one list, a block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import ijson

# Other packages still import these two from here.
from lmrc.common.atomic_io import replacing as replacing
from lmrc.common.atomic_io import write_bytes as write_bytes
from lmrc.common.errors import UserError
from lmrc.common.files import reading

# Bytes that are read at once.
BLOCK = 1 << 20
# White space in JSON.
SPACES = b" \t\n\r"


def json_batches(path: str | Path, expected: str) -> Iterator[list[Any]]:
    """Yield the elements of a JSON file (also gzipped) that holds one list, those of a block at a time.

    Args:
        path: the file.
        expected: end of the sentence "expected …" in the errors.

    Raises:
        UserError: the file is missing or unreadable, empty, not JSON, or not a list.
    """
    count = 0
    elements = ijson.sendable_list()
    parser = ijson.items_coro(elements, "item", use_float=True)
    with reading(path) as file:
        start = b""
        while not start and (block := file.read(BLOCK)):
            start = block.lstrip(SPACES)
        if start[:1] != b"[":
            raise UserError(f"{path}: {'holds no JSON list' if start else 'is empty'}; expected {expected}")
        problem, block = "", start
        while block and not problem:
            try:
                parser.send(block)
                block = file.read(BLOCK)
                if not block:
                    parser.close()
            except (ijson.JSONError, ValueError) as error:
                problem = _first_line(error)
            if elements:
                count += len(elements)
                yield list(elements)
                elements.clear()
        if problem:
            raise UserError(f"{path}: is not valid JSON after {count:,} elements ({problem}); expected {expected}")


def json_list(path: str | Path, expected: str) -> Iterator[Any]:
    """Yield the elements of `json_batches` one by one."""
    return chain.from_iterable(json_batches(path, expected))


def _first_line(error: Exception) -> str:
    """Return the parser's message without the excerpt of the file that follows it, which may be binary."""
    message = error.args[0] if error.args else ""
    text = message.decode(errors="replace") if isinstance(message, bytes) else str(message)
    return text.partition("\n")[0].strip()
