"""Input files: open them (also gzipped) and hash them, with user errors if that fails."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from lmrc.common.errors import UserError
from lmrc.common.file_kind import GZIP, HEAD, describe_start, foreign_kind

UTF8_BOM = b"\xef\xbb\xbf"


@contextmanager
def _user_errors(path: str | Path) -> Iterator[None]:
    """Raise UserError in place of the errors of opening and reading `path`."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, expected a file") from None
    except PermissionError:
        raise UserError(f"{path}: no permission to read it") from None
    except io.UnsupportedOperation:
        raise UserError(f"{path}: is a pipe, expected a regular file: save its content and give that file") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged gzip file ({error}); fetch or pack it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


@contextmanager
def reading(path: str | Path) -> Iterator[IO[bytes]]:
    """Open `path` for reading, decompressed if it is gzipped, after a UTF-8 byte order mark if there is one.

    Raises:
        UserError: the file is missing, a folder, unreadable, or damaged; also while it is read. Or it is surely no
            text in UTF-8: a pointer of Git LFS, a web page, an archive, text in UTF-16. The message says which.
    """
    path = Path(path)
    with _user_errors(path), path.open("rb") as file:
        start = file.read(len(GZIP))
        file.seek(0)
        stream = cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if start == GZIP else file
        head = stream.read(HEAD)
        if kind := foreign_kind(head, path):
            raise UserError(f"{path}: is {kind}")
        if head and path.suffix == ".gz" and start != GZIP:
            raise UserError(
                f"{path}: is not gzipped, although its name ends in .gz: it {describe_start(head)}; rename it, or "
                "fetch or pack it again"
            )
        stream.seek(len(UTF8_BOM) if head.startswith(UTF8_BOM) else 0)
        yield stream


def head_of(path: str | Path) -> bytes:
    """Return the first bytes of the file as it is on disk (not decompressed).

    Raises:
        UserError: the file cannot be read.
    """
    with _user_errors(path), Path(path).open("rb") as file:
        return file.read(HEAD)


def invalid_utf8(path: str | Path) -> tuple[int, int] | None:
    """Return position and value of the first byte that is not UTF-8 in the decompressed file, or None.

    Raises:
        UserError: see `reading`.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    with reading(path) as stream:
        position = stream.tell()
        while True:
            block = stream.read(1 << 20)
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                return position - pending + error.start, error.object[error.start]
            if not block:
                return None
            position += len(block)


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of the file as it is on disk (not decompressed), in hexadecimal.

    Raises:
        UserError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with _user_errors(path), Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
