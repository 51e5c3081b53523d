"""Results as lines of JSON, one a document, in a file that an interrupted extraction goes on with."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import TracebackType

from lmrc.common.errors import UserError
from lmrc.export.result import ExtractedDocument, from_line, to_bytes


class ResultLines:
    """A file of results that is appended to.

    Attributes:
        done: number of results that the file held; the extraction goes on behind them.
        removed: number of incomplete last lines that were removed: 0 or 1.
    """

    def __init__(self, path: Path, key: str) -> None:
        """Open the file, and remove an incomplete last line.

        Args:
            key: identifies the options of the extraction. A line with another one is of another extraction.

        Raises:
            UserError: the file holds something else, was written with other options, or cannot be written.
        """
        self._path, self._key = path, key
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab+")
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
        self.done = self.removed = 0
        try:
            self._recover()
        except BaseException:
            self._file.close()
            raise

    def _recover(self) -> None:
        self._file.seek(0)
        end = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                self.removed = 1
                break
            self._title(line, number)
            self.done += 1
            end += len(line)
        if self.removed:
            self._file.truncate(end)

    def _title(self, line: bytes, number: int) -> str:
        try:
            content = json.loads(line)
            title, key = content["title"], content.get("key")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{self._path}: line {number} is no result of lmrc extract; give another --out, or delete the file"
            ) from None
        if key != self._key:
            raise UserError(
                f"{self._path}: was written with other models or options, and is not gone on with; give another --out, "
                "or delete the file"
            )
        return str(title)

    def titles(self) -> Iterator[str]:
        """Yield the titles of the results that the file held, in order."""
        with self._path.open("rb") as file:
            for number, line in enumerate(islice(file, self.done), 1):
                yield self._title(line, number)

    def __enter__(self) -> ResultLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())

    def write(self, result: ExtractedDocument) -> None:
        """Append a result; a reader sees it at once.

        Raises:
            UserError: the file cannot be written.
        """
        try:
            self._file.write(to_bytes(result, self._key))
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"{self._path} cannot be written: {error.strerror or error}; make room, and repeat the command: it "
                "goes on after the last whole line"
            ) from None


def read_results(path: Path) -> Iterator[ExtractedDocument]:
    """Yield the results of a file, one at a time.

    Raises:
        UserError: the file is missing, or a line is no result.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                where = f"{path}: line {number}"
                try:
                    content = json.loads(line)
                except ValueError:
                    raise UserError(
                        f"{where} is not JSON: it may be cut off; repeat lmrc extract, which mends it"
                    ) from None
                yield from_line(content, where)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
