"""Download the published data sets and build their corpora.

DocRED comes from its authors' Hugging Face repository at a fixed revision (the official links need a browser),
Re-DocRED from its authors' GitHub repository. To use a mirror, set the environment variable LMRC_DOWNLOAD_BASE. Files
are then fetched from URLs such as $LMRC_DOWNLOAD_BASE/docred/dev.json.gz.

If the publisher states a file's SHA-256, the file is checked against it. Otherwise the SHA-256 of the first download is
kept in `sha256.json` beside the files, and later uses are checked against it (trust on first use).
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from lmrc.common.errors import UserError, nearest
from lmrc.common.files import reading, sha256_of
from lmrc.corpus.corpus import Corpus, write_corpus
from lmrc.corpus.docred import read_documents
from lmrc.corpus.relations import DOCRED

logger = logging.getLogger(__name__)

BASE_VARIABLE = "LMRC_DOWNLOAD_BASE"
HASHES = "sha256.json"
TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Published:
    """A published file: the split it holds, its name, and its SHA-256 if the publisher states it."""

    split: str
    file: str
    sha256: str | None = None


BASES = {
    "docred": "https://huggingface.co/datasets/thunlp/docred/resolve/7985b4e0371e6c61a756feb41b7b27becf71c666/data",
    "redocred": "https://raw.githubusercontent.com/tonytan48/Re-DocRED/main/data",
}
# DocRED's hashes are stated by its repository, for large files only. Its distantly supervised part is not fetched.
# Re-DocRED states none; the hash of its dev file was computed from a published copy.
FILES = {
    "docred": (
        Published(
            "train",
            "train_annotated.json.gz",
            "0d01cd07cabd7f9077db6ea8628832cf60281b4228ec1ba54647f836a3b17d02",
        ),
        Published("dev", "dev.json.gz", "6ae4d7f5b0b9d2cbe74b9634ed43b35b7cb5b7c0dc3a16226dbe343139a4ae05"),
        Published("test", "test.json.gz"),
    ),
    "redocred": (
        Published("train", "train_revised.json"),
        Published("dev", "dev_revised.json", "051ee1d057204a5d08ef5502beacdadf191245b5eaf0e29ec2c607cf002c016f"),
        Published("test", "test_revised.json"),
    ),
}


def download(dataset: str, folder: Path) -> list[Path]:
    """Download "docred" or "redocred" and build its corpora; return their folders `folder/<dataset>/<split>`.

    Published files are kept in `folder/<dataset>/source`. Files that are already there, also copied by hand, are
    verified and used. Progress is logged.

    Raises:
        UserError: the data set is unknown, the network or the disk fails, or a SHA-256 differs.
    """
    if dataset not in FILES:
        raise UserError(f"unknown data set {dataset!r}; {nearest(dataset, FILES)}")
    mirror = os.environ.get(BASE_VARIABLE)
    base = f"{mirror.rstrip('/')}/{dataset}" if mirror else BASES[dataset]
    dataset_folder = Path(folder) / dataset
    source = dataset_folder / "source"
    try:
        source.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{source}: cannot be created ({error.strerror or error}); choose another folder") from None
    for published in FILES[dataset]:
        path = source / published.file
        if not path.exists():
            _fetch(f"{base}/{published.file}", path, f"lmrc data download {dataset}")
        _verify(path, published)
    return [_build(source / published.file, dataset_folder / published.split) for published in FILES[dataset]]


def _fetch(url: str, path: Path, command: str) -> None:
    """Download `url` to a temporary name and rename it to `path`. `command` is shown to be typed again."""
    temporary = path.with_name(f".{path.name}.part-{os.getpid()}")
    logger.info(f"fetching {url}")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
            length = int(response.headers.get("Content-Length") or 0)
            received = _save(response, temporary, length)
        if length and received != length:
            raise ConnectionError(f"the connection was closed after {received} of {length} bytes")
        temporary.rename(path)
    except UserError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"cannot fetch {url} ({reason}); fetch it by hand on a machine with network access, put it at {path} "
            f"and run `{command}` again, or set {BASE_VARIABLE} to a mirror"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def _save(response: http.client.HTTPResponse, path: Path, length: int) -> int:
    received = 0
    # disable=None: show the bar only on a terminal.
    with tqdm(total=length or None, unit="B", unit_scale=True, disable=None, leave=False) as progress:
        try:
            file = path.open("wb")
        except OSError as error:
            raise _unwritable(path, error) from None
        with file:
            while block := response.read(1 << 16):
                try:
                    file.write(block)
                except OSError as error:
                    raise _unwritable(path, error) from None
                received += len(block)
                progress.update(len(block))
    return received


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path.parent}: cannot be written ({error.strerror or error}); free some space or choose another folder"
    )


def _verify(path: Path, published: Published) -> None:
    """Raise UserError if the SHA-256 differs from the published one, or else from that of the first download."""
    hashes = path.with_name(HASHES)
    recorded: dict[str, str] = {}
    if hashes.exists():
        with reading(hashes) as stream:
            try:
                recorded = dict(json.load(stream))
            except (ValueError, TypeError):
                raise UserError(f"{hashes}: is damaged; remove it to accept the files beside it as they are") from None
    sha256 = sha256_of(path)
    expected = published.sha256 or recorded.get(published.file)
    if expected is None:
        temporary = hashes.with_name(f".{HASHES}.tmp-{os.getpid()}")
        temporary.write_text(json.dumps({**recorded, published.file: sha256}, indent=2) + "\n", encoding="utf-8")
        temporary.replace(hashes)
        logger.info(
            f"{path}: no published sha256 is known; trusted on first use: {sha256}, "
            f"kept in {hashes} and checked from now on"
        )
    elif sha256 != expected:
        origin = "published" if published.sha256 else f"kept in {HASHES}"
        raise UserError(
            f"{path}: its sha256 is {sha256}, the {origin} one is {expected}: the file is damaged or was changed; "
            "remove it and run the command again"
        )


def _build(source: Path, out: Path) -> Path:
    source_sha256 = sha256_of(source)
    if out.exists() and any(out.iterdir()):
        manifest = Corpus.open(out).manifest
        if manifest.source_sha256 != source_sha256:
            raise UserError(
                f"{out}: holds a corpus of another file ({manifest.source}); remove it or choose another folder"
            )
        logger.info(f"{out}: {manifest.documents} documents, already built")
        return out
    documents = read_documents(source, DOCRED)
    progress = tqdm(documents, desc=str(out), unit=" documents", disable=None, leave=False)
    manifest = write_corpus(progress, out, DOCRED, source.name, source_sha256)
    logger.info(f"{out}: {manifest.documents} documents, {manifest.triples} triples")
    return out
