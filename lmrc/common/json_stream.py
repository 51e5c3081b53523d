"""Files of the evaluation: JSON lists read as a stream, texts that are written whole or not at all."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import IO, Any, NoReturn

from lmrc.common.errors import UserError
from lmrc.common.files import reading

BLOCK = 1 << 20
"""Bytes of a file that are read at once."""

SPACES = " \t\n\r"
"""What JSON calls white space."""


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


# Two million predictions take an eighth of the time that ijson takes.
_scan = json.JSONDecoder(parse_constant=_no_number).raw_decode
_spaces = re.compile(f"[{SPACES}]*").match


def json_batches(path: str | Path, expected: str) -> Iterator[list[Any]]:
    """The elements of a JSON file (also gzipped: .gz) that holds one list, some thousands at a time.

    Memory is that of a block of the file. `expected` completes the sentence "expected …" of the errors.

    Raises:
        UserError: the file is missing or unreadable, empty, not JSON, or not a list.
    """
    count = 0

    def fault(reason: object) -> UserError:
        return UserError(f"{path}: is not valid JSON after {count:,} elements ({reason}); expected {expected}")

    with reading(path) as file:
        decode = codecs.getincrementaldecoder("utf-8")().decode
        text, size, opened, ended = "", BLOCK, False, False
        while not ended:
            block = file.read(size)
            ended = not block
            try:
                text += decode(block, ended)
            except UnicodeDecodeError as error:
                raise fault(error) from None
            if not opened:
                text = text.lstrip(SPACES)
                if not text and not ended:
                    continue
                if text[:1] != "[":
                    raise UserError(f"{path}: {'holds no JSON list' if text else 'is empty'}; expected {expected}")
                opened = True
            problem = ""
            if text[0] != "]":
                batch, text, problem = _elements(text)
                count += len(batch)
                if batch:
                    yield batch
                # An element longer than a block is read in ever larger ones, so that it is scanned only a few times.
                size = BLOCK if batch else 2 * size
            if text[0] == "]" and text[1:].strip(SPACES):
                raise fault("something follows the list")
            if ended and text[0] != "]":
                raise fault(problem)


def json_list(path: str | Path, expected: str) -> Iterator[Any]:
    """The elements of `json_batches`, one by one."""
    return chain.from_iterable(json_batches(path, expected))


def _elements(text: str) -> tuple[list[Any], str, str]:
    """The elements that a piece of a list holds whole, what is left of it, and why that could not be read.

    The piece begins with the `[` of the list or a `,` between elements. What is left does so too, or with the `]` of
    the list.
    """
    elements: list[Any] = []
    place = 0
    while True:
        start = _spaces(text, place + 1).end()  # type: ignore[union-attr]  # matches everywhere
        if text[place] == "[" and text[start : start + 1] == "]":
            return elements, text[start:], ""
        try:
            element, end = _scan(text, start)
        except (ValueError, RecursionError) as error:
            # Not only the end of the piece: also NaN, integers of thousands of digits, lists in lists in lists.
            return elements, text[place:], getattr(error, "msg", str(error))
        end = _spaces(text, end).end()  # type: ignore[union-attr]
        following = text[end : end + 1]
        if following not in (",", "]") or not following:
            # A number at the end of the piece may go on.
            return elements, text[place:], "expected , or ]"
        elements.append(element)
        place = end
        if following == "]":
            return elements, text[end:], ""


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[str]]:
    """A UTF-8 text file that takes the place of `path` when the block ends well, and vanishes when it does not.

    Missing parent folders are made.

    Raises:
        UserError: the file cannot be written.
    """
    with _temporary(Path(path)) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file as `replacing` does."""
    with _temporary(Path(path)) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Where to write first; renamed to `path` when the block ends well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); what it held before stays") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
