from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lmrc.common.errors import UserError
from lmrc.common.file_kind import foreign_kind
from lmrc.common.files import invalid_utf8, reading, sha256_of


def read(path: Path) -> bytes:
    with reading(path) as stream:
        return stream.read()


def test_plain_gzipped_and_marked_files_read_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"[1, 2]")
    (tmp_path / "b.json").write_bytes(b"\xef\xbb\xbf[1, 2]")
    (tmp_path / "c.json.gz").write_bytes(gzip.compress(b"[1, 2]"))
    assert [read(tmp_path / name) for name in ("a.json", "b.json", "c.json.gz")] == [b"[1, 2]"] * 3


def test_the_hash_is_of_the_compressed_file(tmp_path: Path) -> None:
    packed = gzip.compress(b"x" * 3_000_000)
    (tmp_path / "a.gz").write_bytes(packed)
    assert sha256_of(tmp_path / "a.gz") == hashlib.sha256(packed).hexdigest()


@pytest.mark.parametrize("use", [read, sha256_of])
def test_unreadable_files_are_user_errors(tmp_path: Path, use: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(use)
    with pytest.raises(UserError, match=r"none\.json: no such file"):
        use(tmp_path / "none.json")
    with pytest.raises(UserError, match="is a folder, expected a file"):
        use(tmp_path)
    file = tmp_path / "secret.json"
    file.write_text("[]")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    # chmod does not stop root.
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"secret\.json: no permission to read it"):
        use(file)


def test_the_content_says_if_a_file_is_gzipped(tmp_path: Path) -> None:
    (tmp_path / "docs.json").write_bytes(gzip.compress(b"\xef\xbb\xbf[1, 2]"))
    assert read(tmp_path / "docs.json") == b"[1, 2]"
    (tmp_path / "no.json.gz").write_bytes(b"[1, 2]")
    with pytest.raises(UserError, match=r"no\.json\.gz: is not gzipped, .* it begins with '\[1, 2\]'; rename it"):
        read(tmp_path / "no.json.gz")
    (tmp_path / "empty.json.gz").write_bytes(b"")
    assert read(tmp_path / "empty.json.gz") == b""


def test_damaged_gzip_files(tmp_path: Path) -> None:
    (tmp_path / "cut.json.gz").write_bytes(gzip.compress(os.urandom(5_000))[:-1_000])
    with pytest.raises(UserError, match="damaged gzip file"):
        read(tmp_path / "cut.json.gz")


def test_files_of_other_kinds_are_named_also_in_gzip(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4287303\n"
    for name, content in (("a.json", pointer), ("a.json.gz", pointer), ("b.json.gz", gzip.compress(pointer))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}: is a pointer of Git LFS for a file of 4,287,303 bytes"):
            read(tmp_path / name)


@given(st.text(), st.binary(min_size=1, max_size=3), st.booleans())
def test_the_first_invalid_byte_is_found(
    tmp_path_factory: pytest.TempPathFactory, text: str, end: bytes, packed: bool
) -> None:
    content = ("x" + text).encode() + end
    try:
        content.decode()
        expected = None
    except UnicodeDecodeError as error:
        expected = (error.start, content[error.start])
    path = tmp_path_factory.mktemp("d") / "a.txt"
    path.write_bytes(gzip.compress(content) if packed else content)
    assume(foreign_kind(content, path) is None)
    assert invalid_utf8(path) == expected


def test_an_invalid_byte_after_a_character_that_two_blocks_share(tmp_path: Path) -> None:
    content = b"x" * ((1 << 20) - 1) + "\u20ac".encode() + b"y\xff"
    (tmp_path / "a.txt").write_bytes(content)
    assert invalid_utf8(tmp_path / "a.txt") == (len(content) - 1, 0xFF)
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbf" + content)
    assert invalid_utf8(tmp_path / "b.txt") == (len(content) + 2, 0xFF)
