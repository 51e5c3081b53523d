"""The user's cache of derived folders, such as converted models and tokenized corpora. Each is written atomically."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from safetensors import SafetensorError

from lmrc.common.atomic_io import replacing_folder
from lmrc.common.errors import UserError
from lmrc.common.files import sha256_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"


def cache_folder() -> Path:
    """Return the cache: $LMRC_CACHE, else $XDG_CACHE_HOME/lmrc, else ~/.cache/lmrc."""
    if own := os.environ.get("LMRC_CACHE"):
        return Path(own).expanduser().absolute()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser().absolute() / "lmrc"
    return Path.home() / ".cache" / "lmrc"


def cached(key: str, make: Callable[[Path], None], notice: str | None = None, needed: Collection[str] = ()) -> Path:
    """Return the folder `key` of the cache; if it is missing or incomplete, make it with `make(folder)`.

    If several processes call this at once, one makes the folder and the others wait.

    Args:
        key: path of the folder below the cache.
        make: writes the files into the folder that is passed to it.
        notice: logged before `make` runs; another line follows with the seconds it took.
        needed: names of files that a complete folder has, even if its manifest does not list them.

    Raises:
        UserError: if the cache cannot be written.
    """
    folder = cache_folder() / key
    parent = folder.parent
    if _is_complete(folder, needed):
        return folder
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(parent / f"{folder.name}.lock"):
            # Another process may have made it while this one waited.
            if not _is_complete(folder, needed):
                _make(folder, make, notice, needed)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot write to {parent} ({error}); set LMRC_CACHE to a folder with 500 MB of room"
        ) from error
    return folder


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the SHA-256 of the tokenizer's saved files: vocabulary, merges, special tokens, options.

    Truncation and padding, which the last call may have set, are left out.
    """
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        fast = Path(folder) / "tokenizer.json"
        if fast.exists():
            content = json.loads(fast.read_bytes())
            fast.write_text(json.dumps({**content, "truncation": None, "padding": None}))
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        hashes = {str(path.relative_to(folder)): sha256_of(path) for path in files}
    return digest(hashes)


def digest(content: object) -> str:
    """Return the SHA-256 of JSON values, independent of the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _make(folder: Path, make: Callable[[Path], None], notice: str | None, needed: Collection[str]) -> None:
    start = time.monotonic()
    if folder.exists():
        logger.warning(f"{folder} is damaged (files are missing or of the wrong size); making it again")
    if notice:
        logger.info(notice)
    # On a file system without locks, two processes make the same folder: the first one is kept.
    with replacing_folder(folder, keep_existing=True) as temporary:
        # Progress bars of libraries would hide the notice. Errors are raised.
        with Path(os.devnull).open("w") as devnull, redirect_stderr(devnull):
            make(temporary)
        sizes = {file.name: file.stat().st_size for file in sorted(temporary.iterdir())}
        if not sizes.keys() >= set(needed):
            raise RuntimeError(f"{folder} was made without {', '.join(sorted(set(needed) - sizes.keys()))}")
        (temporary / MANIFEST).write_text(json.dumps({"files": sizes}, indent=1) + "\n")
        # safetensors writes files that only their owner can read; the cache may be shared.
        temporary.chmod(0o755)
        for file in temporary.iterdir():
            file.chmod(0o644)
        if folder.exists() and not _is_complete(folder, needed):
            shutil.rmtree(folder)
    if notice:
        logger.info(f"{folder} is written after {time.monotonic() - start:.0f} s")


def _is_complete(folder: Path, needed: Collection[str]) -> bool:
    """Return True if the manifest lists the `needed` files, and all files that it lists have the listed sizes."""
    try:
        sizes = json.loads((folder / MANIFEST).read_text())["files"]
        return (
            bool(sizes)
            and set(needed) <= set(sizes)
            and all((folder / name).stat().st_size == size for name, size in sizes.items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
