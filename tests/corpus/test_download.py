from __future__ import annotations

import gzip
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lmrc.common.errors import UserError
from lmrc.corpus import download as module
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.download import BASE_VARIABLE, FILES, download


def documents(prefix: str) -> bytes:
    mention = {"name": "A", "sent_id": 0, "pos": [0, 1], "type": "PER"}
    labels = [{"h": 0, "t": 1, "r": "P17", "evidence": [0]}]
    raw = {"sents": [["A"]], "vertexSet": [[mention], [mention]], "labels": labels}
    return json.dumps([{**raw, "title": f"{prefix}{number}"} for number in range(3)]).encode()


class Server:
    """A mirror on localhost. `files` are served, `asked` lists requested paths, `cut` breaks connections."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.cut = False
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                content = server.files.get(self.path)
                if content is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if server.cut else content)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/mirror/"


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    for dataset, published in FILES.items():
        known = []
        for entry in published:
            content = documents(entry.split)
            content = gzip.compress(content, mtime=0) if entry.file.endswith(".gz") else content
            server.files[f"/mirror/{dataset}/{entry.file}"] = content
            known.append(replace(entry, sha256=entry.sha256 and hashlib.sha256(content).hexdigest()))
        monkeypatch.setitem(module.FILES, dataset, tuple(known))
    monkeypatch.setenv(BASE_VARIABLE, server.url)
    monkeypatch.setenv("no_proxy", "*")
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


@pytest.mark.parametrize("dataset", ["docred", "redocred"])
def test_all_splits_are_downloaded_and_built(tmp_path: Path, mirror: Server, dataset: str) -> None:
    built = download(dataset, tmp_path)
    assert built == [tmp_path / dataset / split for split in ("train", "dev", "test")]
    assert [[document.title for document in Corpus.open(out)] for out in built] == [
        [f"{split}{number}" for number in range(3)] for split in ("train", "dev", "test")
    ]
    source = tmp_path / dataset / "source"
    manifest = Corpus.open(built[0]).manifest
    assert manifest.source_sha256 == hashlib.sha256((source / manifest.source).read_bytes()).hexdigest()
    assert not [path for path in source.iterdir() if path.name.startswith(".")]


def test_second_call_does_nothing(tmp_path: Path, mirror: Server, caplog: pytest.LogCaptureFixture) -> None:
    first = download("redocred", tmp_path)
    stamps = [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))]
    caplog.clear()
    assert download("redocred", tmp_path) == first
    assert len(mirror.asked) == 3
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))] == stamps
    assert caplog.text.count("already built") == 3


def test_unpublished_hashes_are_trusted_on_first_use(
    tmp_path: Path, mirror: Server, caplog: pytest.LogCaptureFixture
) -> None:
    download("redocred", tmp_path)
    source = tmp_path / "redocred" / "source"
    messages = caplog.text
    kept = json.loads((source / "sha256.json").read_text())
    unknown = {entry.file for entry in FILES["redocred"] if entry.sha256 is None}
    assert set(kept) == unknown
    assert messages.count("trusted on first use") == len(unknown)
    for file in unknown:
        assert kept[file] == hashlib.sha256((source / file).read_bytes()).hexdigest()
        assert kept[file] in messages
    changed = source / sorted(unknown)[0]
    changed.write_bytes(changed.read_bytes() + b" ")
    with pytest.raises(UserError, match=rf"{changed.name}: its sha256 is .*kept in sha256\.json .*remove it"):
        download("redocred", tmp_path)


def test_wrong_published_hash_is_refused(tmp_path: Path, mirror: Server) -> None:
    mirror.files["/mirror/redocred/dev_revised.json"] = documents("other")
    with pytest.raises(UserError, match=r"dev_revised\.json: its sha256 is .*the published one is"):
        download("redocred", tmp_path)
    assert not (tmp_path / "redocred" / "dev").exists()


def test_file_copied_by_hand_is_used(tmp_path: Path, mirror: Server) -> None:
    source = tmp_path / "redocred" / "source"
    source.mkdir(parents=True)
    (source / "train_revised.json").write_bytes(documents("mine"))
    built = download("redocred", tmp_path)
    assert Corpus.open(built[0])[0].title == "mine0"
    assert "/mirror/redocred/train_revised.json" not in mirror.asked


def test_missing_file_error_explains_manual_download(tmp_path: Path, mirror: Server) -> None:
    del mirror.files["/mirror/docred/dev.json.gz"]
    by_hand = r"fetch it by hand .*put it at .*source/dev\.json\.gz and run `lmrc data download docred` again"
    with pytest.raises(UserError, match=rf"cannot fetch http.*dev\.json\.gz \(Not Found\); {by_hand}"):
        download("docred", tmp_path)


def test_no_network_error_explains_manual_download(
    tmp_path: Path, mirror: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.http.server_close()
    monkeypatch.setenv(BASE_VARIABLE, "http://127.0.0.1:9/none")
    with pytest.raises(UserError, match=r"cannot fetch .*refused.*fetch it by hand"):
        download("redocred", tmp_path)
    assert list((tmp_path / "redocred" / "source").iterdir()) == []


def test_broken_download_leaves_no_file(tmp_path: Path, mirror: Server) -> None:
    mirror.cut = True
    with pytest.raises(UserError, match=r"cannot fetch .*fetch it by hand"):
        download("redocred", tmp_path)
    assert list((tmp_path / "redocred" / "source").iterdir()) == []
    mirror.cut = False
    assert len(download("redocred", tmp_path)) == 3


def test_corpus_of_another_file_is_kept(tmp_path: Path, mirror: Server) -> None:
    download("redocred", tmp_path)
    (tmp_path / "redocred" / "dev").rename(tmp_path / "redocred" / "test2")
    (tmp_path / "redocred" / "train").rename(tmp_path / "redocred" / "dev")
    with pytest.raises(UserError, match="dev: holds a corpus of another file"):
        download("redocred", tmp_path)


def test_unknown_data_set_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown data set 'redocread'; did you mean redocred"):
        download("redocread", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be created"):
        download("docred", tmp_path / "file")


def test_pinned_hash_equals_that_of_the_real_file(shared_data: Path) -> None:
    dev = next(entry for entry in FILES["redocred"] if entry.split == "dev")
    assert hashlib.sha256((shared_data / "redocred_dev.json").read_bytes()).hexdigest() == dev.sha256
