"""Input files: open them (also gzipped) and hash them, with user errors if that fails."""

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
    """Open `path` for reading, decompressed if its name ends in .gz, after a UTF-8 byte order mark if there is one.

    Raises:
        UserError: the file is missing, a folder, unreadable, or damaged; also while it is read.
    """
    path = Path(path)
    with _user_errors(path), path.open("rb") as file:
        stream = cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if path.suffix == ".gz" else file
        if stream.read(len(UTF8_BOM)) != UTF8_BOM:
            stream.seek(0)
        yield stream


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
