"""Reader of JSON files that hold one list, or JSON Lines, a block at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any

import ijson

# Other packages still import these two from here.
from lmrc.common.atomic_io import replacing as replacing
from lmrc.common.atomic_io import write_bytes as write_bytes
from lmrc.common.errors import UserError
from lmrc.common.file_kind import HEAD, describe_start
from lmrc.common.files import reading

# Bytes that are read at once.
BLOCK = 1 << 20
# White space in JSON.
SPACES = b" \t\n\r"


def batches_of(file: IO[bytes], path: str | Path, expected: str, takes_lines: bool = False) -> Iterator[list[Any]]:
    """Yield the elements of an open JSON file, those of a block at a time.

    Args:
        file: the file, at its start.
        path: its name, for the errors.
        expected: end of the sentence "expected …" in the errors.
        takes_lines: objects without a list around them are elements too (JSON Lines).

    Raises:
        UserError: the file is empty, not JSON, or not a list.
    """
    count = 0
    start = b""
    while not start and (block := file.read(BLOCK)):
        start = block.lstrip(SPACES)
    is_lines = takes_lines and start[:1] == b"{"
    if start[:1] != b"[" and not is_lines:
        holds = "is empty"
        if start:
            holds = (
                "holds no JSON list" if start[:1] == b"{" else f"holds no JSON list: it {describe_start(start[:HEAD])}"
            )
        raise UserError(f"{path}: {holds}; expected {expected}")
    elements = ijson.sendable_list()
    parser = ijson.items_coro(elements, "" if is_lines else "item", use_float=True, multiple_values=is_lines)
    problem, block = "", start
    while block and not problem:
        try:
            parser.send(block)
            block = file.read(BLOCK)
            if not block:
                parser.close()
        except (ijson.JSONError, ValueError) as error:
            problem = describe_json_error(error)
        if elements:
            count += len(elements)
            yield list(elements)
            elements.clear()
    if problem:
        raise UserError(f"{path}: is not valid JSON after {count:,} elements ({problem}); expected {expected}")


def json_list(path: str | Path, expected: str) -> Iterator[Any]:
    """Yield the elements of a JSON file (also gzipped) that holds one list.

    Args:
        path: the file.
        expected: end of the sentence "expected …" in the errors.

    Raises:
        UserError: the file is missing or unreadable, empty, not JSON, or not a list.
    """
    with reading(path) as file:
        yield from chain.from_iterable(batches_of(file, path, expected))


def json_error_text(error: Exception) -> str:
    """Return the message of ijson's parser: a line, and an excerpt of the file with a mark below it."""
    message = error.args[0] if error.args else ""
    return message.decode(errors="replace") if isinstance(message, bytes) else str(message)


def describe_json_error(error: Exception) -> str:
    """Return the message of ijson's parser in one line, and if the cause is a common one, how to remove it."""
    text = json_error_text(error)
    first = text.partition("\n")[0].strip()
    remedy = _remedy(text)
    return f"{first}: {remedy}" if remedy else first


# A word that Python's json module writes, and JSON has not.
_NUMBER = re.compile(r"-?(?:NaN|Infinity)\b")


def _remedy(text: str) -> str:
    lines = text.split("\n")
    if len(lines) < 3 or "^" not in lines[2]:
        return ""
    # The parser gives up at the character to the left of the mark.
    excerpt, place = lines[1], lines[2].index("^") - 1
    for start in range(max(0, place - 9), place + 1):
        if (found := _NUMBER.match(excerpt, start)) and found.end() >= place:
            return f"{found[0]} is no JSON; write null, or leave its key out"
    before, character = excerpt[:place].rstrip(), excerpt[place : place + 1]
    if character in ("]", "}") and before.endswith(","):
        return f"there is a comma before a closing {character}; remove it"
    if character == "," and before.endswith("}") and "unallowed token" in lines[0]:
        return "there is a comma behind an object that no list is around; remove it"
    return ""
