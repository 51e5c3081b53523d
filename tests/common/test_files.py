from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import pytest

from lmrc.common.errors import UserError
from lmrc.common.files import reading, sha256_of


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


def test_damaged_gzip_files(tmp_path: Path) -> None:
    (tmp_path / "no.json.gz").write_bytes(b"[1, 2]")
    (tmp_path / "cut.json.gz").write_bytes(gzip.compress(os.urandom(5_000))[:-1_000])
    for name in ("no.json.gz", "cut.json.gz"):
        with pytest.raises(UserError, match="damaged gzip file"):
            read(tmp_path / name)
