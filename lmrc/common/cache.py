"""The user's cache: folders that are made once from something else, and exist whole or not at all.

It is $LMRC_CACHE, else $XDG_CACHE_HOME/lmrc, else ~/.cache/lmrc.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from safetensors import SafetensorError

from lmrc.common.errors import UserError
from lmrc.common.files import sha256_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MANIFEST = "manifest.json"


def cache_folder() -> Path:
    """Where converted and made models live: $LMRC_CACHE, else $XDG_CACHE_HOME/lmrc, else ~/.cache/lmrc."""
    if own := os.environ.get("LMRC_CACHE"):
        return Path(own).expanduser().absolute()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser().absolute() / "lmrc"
    return Path.home() / ".cache" / "lmrc"


def cached(key: str, make: Callable[[Path], None], notice: str | None = None, needed: Collection[str] = ()) -> Path:
    """Return the folder `key` of the cache, made by `make(folder)` if it is not there whole.

    Several processes may ask at once: one makes it, the others wait.

    Args:
        key: path of the folder below the cache's.
        make: writes the files into the folder that it is given.
        notice: printed before, with the seconds that it took after.
        needed: names of files without which the folder is not whole, even if its manifest does not list them.

    Raises:
        UserError: if the cache cannot be written.
    """
    folder = cache_folder() / key
    parent = folder.parent
    if _is_whole(folder, needed):
        return folder
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with FileLock(parent / f"{folder.name}.lock"):
            # Another process may have made it while we waited.
            if not _is_whole(folder, needed):
                _make(folder, make, notice, needed)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot write to {parent} ({error}); set LMRC_CACHE to a folder with 500 MB of room"
        ) from error
    return folder


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of the tokenizer's files as it would save them: vocabulary, merges, special tokens, options.

    What its last use has left in it (truncation, padding) does not count.
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
    """SHA-256 of plain JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _make(folder: Path, make: Callable[[Path], None], notice: str | None, needed: Collection[str]) -> None:
    started = time.monotonic()
    if folder.exists():
        print(f"{folder} is damaged (files are missing or of the wrong size); making it again", file=sys.stderr)
    if notice:
        print(notice, end=" ", file=sys.stderr, flush=True)
    # A random name: where the file system knows no locks, two writers must not share it.
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        # Libraries' progress bars would bury the one line that was announced; what goes wrong is raised.
        with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
            make(temporary)
        sizes = {file.name: file.stat().st_size for file in sorted(temporary.iterdir())}
        if not sizes.keys() >= set(needed):
            raise RuntimeError(f"{folder} was made without {', '.join(sorted(set(needed) - sizes.keys()))}")
        (temporary / MANIFEST).write_text(json.dumps({"files": sizes}, indent=1) + "\n")
        # mkdtemp and safetensors write for the owner alone, which would lock the others out of a shared cache.
        temporary.chmod(0o755)
        for file in temporary.iterdir():
            file.chmod(0o644)
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        if folder.exists() and not _is_whole(folder, needed):
            shutil.rmtree(folder)
        try:
            temporary.rename(folder)
        except OSError:
            # The first rename wins; ours is the same model.
            if not _is_whole(folder, needed):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if notice:
            print(f"{time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)


def _is_whole(folder: Path, needed: Collection[str]) -> bool:
    """Check that the manifest lists the `needed` files, and that all it lists are there in their sizes."""
    try:
        sizes = json.loads((folder / MANIFEST).read_text())["files"]
        return (
            bool(sizes)
            and set(needed) <= set(sizes)
            and all((folder / name).stat().st_size == size for name, size in sizes.items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
