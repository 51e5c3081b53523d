"""Files that a user gives: opening them (also gzipped), hashing them, and saying what stands in the way."""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from lmrc.common.errors import UserError

UTF8_MARK = b"\xef\xbb\xbf"


@contextmanager
def _explained(path: str | Path) -> Iterator[None]:
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
    """Opens `path` for reading, unpacked where its name ends in .gz and past a UTF-8 byte order mark.

    Raises UserError where the file is missing, a folder, unreadable, or turns out damaged while it is read.
    """
    path = Path(path)
    with _explained(path), path.open("rb") as file:
        stream = cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if path.suffix == ".gz" else file
        if stream.read(len(UTF8_MARK)) != UTF8_MARK:
            stream.seek(0)
        yield stream


def sha256_of(path: str | Path) -> str:
    """SHA-256 of the file as it stands on disk (not unpacked), in hexadecimal. Raises UserError as `reading` does."""
    digest = hashlib.sha256()
    with _explained(path), Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
