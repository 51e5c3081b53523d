"""Recognition of files that are not the data themselves, by their first bytes."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from pathlib import Path

# Bytes that `foreign_kind` needs: the magic number of tar stands at 257.
HEAD = 1024
GZIP = b"\x1f\x8b"
PARQUET = b"PAR1"
# Marks at the start of a text. UTF-32's are longer and begin like UTF-16's, so they come first.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
# Files of one kind: first bytes, name, remedy.
_MAGIC = (
    (b"PK\x03\x04", "a zip archive", "unpack it (unzip FILE) and give a file of it"),
    (b"PK\x05\x06", "an empty zip archive", "fetch it again"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it (7z x FILE) and give a file of it"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it (unrar x FILE) and give a file of it"),
    (b"BZh", "compressed by bzip2", "unpack it (bunzip2 FILE)"),
    (b"\xfd7zXZ\x00", "compressed by xz", "unpack it (unxz FILE)"),
    (b"\x28\xb5\x2f\xfd", "compressed by Zstandard", "unpack it (unzstd FILE)"),
    (b"\x04\x22\x4d\x18", "compressed by LZ4", "unpack it (unlz4 FILE)"),
    (PARQUET, "a Parquet file", "only documents may be in Parquet; give JSON"),
    (b"ARROW1\x00\x00", "an Arrow file", "write it as JSON Lines (Dataset.to_json) or Parquet (Dataset.to_parquet)"),
    (b"%PDF-", "a PDF document", "give the data themselves"),
    (b"SQLite format 3\x00", "an SQLite database", "export its documents as JSON"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "export its documents as JSON"),
    (b"\x93NUMPY", "a NumPy array", "export it as JSON"),
)
_PICKLE = re.compile(rb"\x80[\x02-\x05][\x95\x00-\x7f]")
_LFS = re.compile(rb"version https://(?:git-lfs|hawser)\.github\.com/spec/v1\s")
_LFS_SIZE = re.compile(rb"\nsize (\d+)")
_HTML = re.compile(rb"\s*(?:<!--.*?-->\s*)*(?:<!doctype\s+html|<html|<head|<body)\b", re.IGNORECASE | re.DOTALL)
_HTML_TITLE = re.compile(rb"<title[^>]*>\s*(.*?)\s*</title>", re.IGNORECASE | re.DOTALL)
_XML = re.compile(rb"\s*<(?:\?xml|[A-Za-z][\w.:-]*[\s/>])")


def foreign_kind(head: bytes, path: Path) -> str | None:
    """Return the kind of a file and its remedy if it surely is no text in UTF-8, or None.

    Args:
        head: its first `HEAD` bytes, decompressed.
        path: its name, for the remedy.
    """
    for describe in _DESCRIPTIONS:
        if kind := describe(head, path):
            return kind
    return None


def describe_start(head: bytes) -> str:
    """Return a phrase for a file that is not the expected text, by its first bytes: "begins with '404: Not F'"."""
    if _XML.match(head):
        return "is XML"
    text = head[:200].decode("utf-8", errors="ignore")
    if b"\0" in head or any(ord(character) < 32 and not character.isspace() for character in text):
        return "is a binary file"
    words = " ".join(text.split())
    return f"begins with {words[:40]!r}"


def describe_encoding(path: Path, position: int, byte: int) -> str:
    """Return a phrase for a text with an invalid UTF-8 byte at a position, and how to convert the file."""
    return (
        f"is not UTF-8: byte 0x{byte:02x} at position {position:,} is invalid; convert it from its encoding, "
        f"such as iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8-{path.name.removesuffix('.gz')} (Chinese: "
        "GB18030, Japanese: SHIFT_JIS)"
    )


def _pointer(head: bytes, path: Path) -> str | None:
    if _LFS.match(head):
        size = _LFS_SIZE.search(head)
        of = f" for a file of {int(size[1]):,} bytes" if size else ""
        return f"a pointer of Git LFS{of}, which was not fetched: type git lfs pull in its repository"
    if head.startswith(b"/annex/objects/"):
        return "a pointer of git-annex, whose file was not fetched: type git annex get in its repository"
    return None


def _web_page(head: bytes, path: Path) -> str | None:
    if not _HTML.match(head):
        return None
    found = _HTML_TITLE.search(head)
    title = f" with the title {' '.join(found[1].decode('utf-8', 'replace').split())[:60]!r}" if found else ""
    return (
        f"a web page{title}, not the data: fetch the file itself (on GitHub the address behind Raw, on Hugging Face "
        "one with /resolve/)"
    )


def _other_encoding(head: bytes, path: Path) -> str | None:
    name = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    # Text without a mark: every second byte of characters below 256 is 0.
    if name is None and len(head) > 3 and any(head[:4]) and not (any(head[0:8:2]) and any(head[1:8:2])):
        name = "UTF-16LE" if head[0] else "UTF-16BE"
    if name is None:
        return None
    return (
        f"text in {name}, expected UTF-8: convert it by iconv -f {name} -t UTF-8 {path.name} > "
        f"utf8-{path.name.removesuffix('.gz')}"
    )


def _binary(head: bytes, path: Path) -> str | None:
    for magic, name, remedy in _MAGIC:
        if head.startswith(magic):
            return f"{name}: {remedy.replace('FILE', path.name)}"
    if head[257:262] == b"ustar":
        return f"a tar archive: unpack it (tar -xf {path.name}) and give a file of it"
    if _PICKLE.match(head):
        return "a Python pickle, which may run code and is not read: write its documents as JSON"
    return None


_DESCRIPTIONS: tuple[Callable[[bytes, Path], str | None], ...] = (_pointer, _web_page, _binary, _other_encoding)
