from __future__ import annotations

import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmrc.common.file_kind import HEAD, describe_encoding, describe_start, foreign_kind

JSON = json.dumps([{"title": "Ada", "sents": [["Ada", "Müller"]]}], ensure_ascii=False)


def kind(content: bytes) -> str | None:
    return foreign_kind(content[:HEAD], Path("docs.json"))


def archive(form: str) -> bytes:
    stream = io.BytesIO()
    if form == "zip":
        with zipfile.ZipFile(stream, "w") as file:
            file.writestr("docs.json", JSON)
    else:
        with tarfile.open(fileobj=stream, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("docs.json"), io.BytesIO(JSON.encode()))
    return stream.getvalue()


def parquet() -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table({"title": ["Ada"]}), stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4287303\n",
            "Git LFS for a file of 4,287,303",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "a pointer of Git LFS, which was not fetched: type git lfs pull",
        ),
        (b"/annex/objects/SHA256E-s12--00.json\n", "a pointer of git-annex"),
        (b"<!DOCTYPE html>\n<html><head><title>Sign\n in</title>", "a web page with the title 'Sign in', not the data"),
        (b"\n <!-- x --> <HTML>", "a web page, not the data"),
        (archive("zip"), r"a zip archive: unpack it (unzip docs.json)"),
        (archive("tar"), r"a tar archive: unpack it (tar -xf docs.json)"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "a 7-Zip archive"),
        (b"BZh91AY&SY", "compressed by bzip2"),
        (b"\xfd7zXZ\x00\x00", "compressed by xz"),
        (b"\x28\xb5\x2f\xfd\x04", "compressed by Zstandard"),
        (parquet(), "a Parquet file"),
        (b"%PDF-1.7", "a PDF document"),
        (pickle.dumps([{"title": "Ada"}]), "a Python pickle, which may run code"),
        (pickle.dumps([1], protocol=2), "a Python pickle"),
        (JSON.encode("utf-16"), "text in UTF-16, expected UTF-8: convert it by iconv -f UTF-16 -t UTF-8 docs.json"),
        (JSON.encode("utf-16-le"), "text in UTF-16LE"),
        (JSON.encode("utf-16-be"), "text in UTF-16BE"),
        (JSON.encode("utf-32"), "text in UTF-32"),
    ],
)
def test_kinds_are_named(content: bytes, words: str) -> None:
    assert words in str(kind(content))


@given(
    st.recursive(st.none() | st.integers() | st.text(), lambda part: st.lists(part) | st.dictionaries(st.text(), part))
)
def test_json_is_never_taken_for_something_else(value: object) -> None:
    assert kind(json.dumps(value, ensure_ascii=False).encode()) is None
    assert kind(json.dumps(value, indent=1).encode("utf-8-sig")) is None


@pytest.mark.parametrize(
    "text", ["", "[", "1|t|A title.\n1|a|An abstract.", "<?xml version='1.0'?><collection>", "x\ty\n"]
)
def test_text_of_other_formats_is_left_to_its_reader(text: str) -> None:
    assert kind(text.encode()) is None


def test_the_start_of_unexpected_text() -> None:
    assert describe_start(b"404: Not Found") == "begins with '404: Not Found'"
    assert describe_start(b"a\n\tb " + b"c" * 100) == f"begins with {'a b ' + 'c' * 36!r}"
    assert describe_start(b"<?xml version='1.0'?><Error/>") == "is XML"
    assert describe_start(b"PK\x03") == "is a binary file"


def test_the_encoding_remedy_names_a_file_to_write() -> None:
    text = describe_encoding(Path("x/docs.json.gz"), 1234, 0xE9)
    assert text.startswith("is not UTF-8: byte 0xe9 at position 1,234 is invalid")
    assert "docs.json.gz > utf8-docs.json" in text
