from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from lmrc.common.errors import CorpusError, UserError
from lmrc.common.files import sha256_of
from lmrc.corpus import shards
from lmrc.corpus.shards import FolderManifest, ShardFolder, read_manifest, write_folder

SCHEMA = pa.schema([("number", pa.int64())])


def rows(count: int) -> Iterator[dict[str, int]]:
    return ({"number": index} for index in range(count))


def write(
    out: Path, count: int = 10, per_shard: int = 4, given: Iterator[dict[str, int]] | None = None
) -> FolderManifest:
    numbers = rows(count) if given is None else given
    return write_folder(out, SCHEMA, numbers, per_shard, partial(FolderManifest, kind="numbers"))


def numbers(out: Path) -> list[int]:
    folder = ShardFolder(out, read_manifest(out, "numbers", FolderManifest).shards)
    return [batch.column("number")[row].as_py() for batch, row in map(folder.find, range(len(folder)))]


def edit(out: Path, **values: object) -> None:
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**manifest, **values}))


@pytest.mark.parametrize(
    ("count", "per_shard", "sizes"), [(10, 4, [4, 4, 2]), (8, 4, [4, 4]), (1, 256, [1]), (0, 4, [])]
)
def test_rows_are_split_into_shards_and_found(tmp_path: Path, count: int, per_shard: int, sizes: list[int]) -> None:
    manifest = write(tmp_path / "out", count, per_shard)
    assert [shard.rows for shard in manifest.shards] == sizes
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "manifest.json",
        *(f"shard-{index:05d}.arrow" for index in range(len(sizes))),
    ]
    assert numbers(tmp_path / "out") == list(range(count))


def test_manifest_has_size_and_hash_of_each_file(tmp_path: Path) -> None:
    for shard in write(tmp_path / "out").shards:
        content = (tmp_path / "out" / shard.file).read_bytes()
        assert (shard.bytes, shard.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_each_shard_is_an_arrow_file_of_one_batch(tmp_path: Path) -> None:
    write(tmp_path / "out")
    reader = pa.ipc.open_file(tmp_path / "out" / "shard-00001.arrow")
    assert reader.num_record_batches == 1
    assert reader.read_all().column("number").to_pylist() == [4, 5, 6, 7]


def test_fingerprint_is_of_content(tmp_path: Path) -> None:
    first, again, other = write(tmp_path / "a"), write(tmp_path / "b"), write(tmp_path / "c", 9)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert first.fingerprint == hashlib.sha256((tmp_path / "a" / "manifest.json").read_bytes()).hexdigest()
    assert read_manifest(tmp_path / "a", "numbers", FolderManifest).fingerprint == first.fingerprint


def test_empty_folder_is_used_and_other_users_can_read_it(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out")
    assert numbers(tmp_path / "out") == list(range(10))
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_missing_parent_folders_are_created(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "out")
    assert numbers(tmp_path / "a" / "b" / "out") == list(range(10))


def test_existing_files_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes").write_text("mine")
    for name in ("file", "folder"):
        with pytest.raises(UserError, match=f"{name}: exists already and is not an empty folder"):
            write(tmp_path / name)
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "notes").read_text() == "mine"


def test_folder_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    def slow() -> Iterator[dict[str, int]]:
        yield from rows(5)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").write_text("theirs")

    with pytest.raises(UserError, match="exists already"):
        write(tmp_path / "out", given=slow())
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "theirs"]


def test_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write(tmp_path / "file" / "out")


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt, SystemExit, UserError])
def test_interrupted_rows_leave_nothing(tmp_path: Path, fault: type[BaseException]) -> None:
    def failing() -> Iterator[dict[str, int]]:
        yield from rows(9)
        assert list(tmp_path.rglob("shard-00001.arrow")), "two shards are on disk already"
        raise fault("stop")

    with pytest.raises(fault, match="stop"):
        write(tmp_path / "out", given=failing())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_leaves_nothing_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    synced = []

    def full(handle: int) -> None:
        synced.append(handle)
        if len(synced) == 2:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"out: no space left .* free some space or choose a folder on another disk"):
        write(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_rows_per_shard_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="0 was given, expected at least 1"):
        write(tmp_path / "out", per_shard=0)


def test_missing_folder_and_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="none: no such folder"):
        read_manifest(tmp_path / "none", "numbers", FolderManifest)
    with pytest.raises(CorpusError, match=r"is no numbers folder: it has no manifest\.json"):
        read_manifest(tmp_path, "numbers", FolderManifest)
    (tmp_path / "docs.json").write_text("[]")
    with pytest.raises(CorpusError, match="is no numbers folder"):
        read_manifest(tmp_path / "docs.json", "numbers", FolderManifest)


def test_newer_version_is_refused_with_unknown_fields(tmp_path: Path) -> None:
    write(tmp_path / "out")
    edit(tmp_path / "out", schema_version=shards.SCHEMA_VERSION + 1, compression="zstd", shards="elsewhere")
    with pytest.raises(CorpusError, match=r"built by a newer version .*update"):
        read_manifest(tmp_path / "out", "numbers", FolderManifest)


def test_other_kind_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "out")
    with pytest.raises(CorpusError, match="holds numbers, expected letters"):
        read_manifest(tmp_path / "out", "letters", FolderManifest)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"kind": "numbers"}', '{"kind": "numbers", "schema_version": 1}']
)
def test_damaged_manifest_is_refused(tmp_path: Path, content: str) -> None:
    write(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_text(content)
    with pytest.raises(CorpusError, match=r"manifest\.json: is damaged.*build it again"):
        read_manifest(tmp_path / "out", "numbers", FolderManifest)


def test_manifest_whose_numbers_disagree_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "out")
    edit(tmp_path / "out", documents=11)
    with pytest.raises(CorpusError, match="rows of the shards are not 11"):
        read_manifest(tmp_path / "out", "numbers", FolderManifest)


def test_manifest_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    manifest = write(tmp_path / "out")
    edit(tmp_path / "out", shards=[{**shard.model_dump(), "file": "../x.arrow"} for shard in manifest.shards])
    with pytest.raises(CorpusError, match="is damaged"):
        read_manifest(tmp_path / "out", "numbers", FolderManifest)


def test_missing_and_truncated_shards_are_refused_on_opening(tmp_path: Path) -> None:
    manifest = write(tmp_path / "out")
    with (tmp_path / "out" / "shard-00001.arrow").open("ab") as file:
        file.write(b"more")
    with pytest.raises(CorpusError, match=r"shard-00001\.arrow is damaged: it has \d+ bytes, the manifest says"):
        ShardFolder(tmp_path / "out", manifest.shards)
    (tmp_path / "out" / "shard-00001.arrow").unlink()
    with pytest.raises(CorpusError, match=r"shard-00001\.arrow is missing"):
        ShardFolder(tmp_path / "out", manifest.shards)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_changed_shard_is_refused_at_first_use(tmp_path: Path) -> None:
    manifest = write(tmp_path / "out")
    flip(tmp_path / "out" / "shard-00001.arrow")
    folder = ShardFolder(tmp_path / "out", manifest.shards)
    folder.find(3)
    for attempt in (lambda: folder.find(4), folder.verify):
        with pytest.raises(CorpusError, match=r"shard-00001\.arrow is damaged: its sha256 is .*copy or build"):
            attempt()


def test_each_shard_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write(tmp_path / "out", 12, 2)
    hashed: list[str] = []

    def hashing(path: Path) -> str:
        hashed.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(shards, "sha256_of", hashing)
    monkeypatch.setattr(shards, "OPEN_SHARDS", 2)
    folder = ShardFolder(tmp_path / "out", manifest.shards)
    assert hashed == []
    for _ in range(3):
        assert [batch.column("number")[row].as_py() for batch, row in map(folder.find, range(12))] == list(range(12))
    assert hashed == [shard.file for shard in manifest.shards]


def test_rows_beyond_the_end(tmp_path: Path) -> None:
    folder = ShardFolder(tmp_path / "out", write(tmp_path / "out").shards)
    batch, row = folder.find(-1)
    assert batch.column("number")[row].as_py() == 9
    for index in (10, -11):
        with pytest.raises(IndexError):
            folder.find(index)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc to see what is mapped")
def test_few_shards_are_mapped_and_none_outlives_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(f"{tmp_path}/out/shard-")

    manifest = write(tmp_path / "out", 60, 2)
    monkeypatch.setattr(shards, "OPEN_SHARDS", 3)
    files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 (pathlib opens one more)
    folder = ShardFolder(tmp_path / "out", manifest.shards)
    assert mapped() == 0
    for row in range(60):
        folder.find(row)
        assert mapped() <= 3
    assert mapped() == 3
    assert len(os.listdir("/proc/self/fd")) == files  # noqa: PTH208
    del folder
    assert mapped() == 0
