"""Copy a model once to a disk of the node, from which all processes of the node read it (`cluster.stage_base`).

One process copies, under a lock that the kernel releases if it dies. The others wait for it, up to a limit. The copy
gets its name when it is complete, so that a killed copier leaves nothing that is read. If the disk is full, or the copy
fails otherwise, all read the original.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

# The folder, with the node's variables expanded. The launcher sets it from cluster.stage_base.
STAGE_BASE = "LMRC_STAGE_BASE"
# Longest time to wait for another process's copy: 26 GB at 20 MB/s.
WAIT_SECONDS = 1300.0
# For so long a failed copy is not tried again, so that not every process of the node fills the disk in turn.
RETRY_SECONDS = 600.0
# Weights that are not read if there are safetensors.
OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".ot", ".gguf")


def staged(source: str) -> str:
    """Return the folder with this node's copy of a model, and make it first; or `source` if there is no copy.

    Args:
        source: a folder, or a name on the hub whose files are in the cache.
    """
    given = os.environ.get(STAGE_BASE)
    if given is None:
        return source
    if not given or "$" in given:
        logger.warning(
            "cluster.stage_base names no folder on this node (%r): %s is read from where it is", given, source
        )
        return source
    folder = _folder_of(source)
    if folder is None:
        logger.info("%s is not in the cache, so it is not copied to this node", source)
        return source
    try:
        return str(_copied(folder, Path(given)))
    except (OSError, Timeout) as error:
        reason = (
            f"another process copies it for more than {WAIT_SECONDS:.0f} s" if isinstance(error, Timeout) else error
        )
        logger.warning("%s is not copied to %s (%s): it is read from %s", source, given, reason, folder)
        return source


def _folder_of(source: str) -> Path | None:
    """Return the folder with the files of a model; None if they are not on this machine."""
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(source, "config.json")
    return Path(path).parent if isinstance(path, str) else None


def files_to_read(folder: Path) -> list[Path]:
    """Return the files of a model folder that loading reads: not its subfolders, nor weights in other formats."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    if any(path.suffix == ".safetensors" for path in files):
        files = [path for path in files if path.suffix not in OTHER_WEIGHTS]
    return files


def _copied(folder: Path, base: Path) -> Path:
    """Return the copy of the folder, made by this process or another one.

    Raises:
        OSError: it could not be made, here or by another process just now.
        Timeout: another process is still copying.
    """
    files = files_to_read(folder)
    # Files that were replaced are another model. The user's number: several users may share a folder such as /tmp.
    content = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    key = hashlib.sha256(repr((str(folder.resolve()), content)).encode()).hexdigest()[:16]
    home = base / f"lmrc-models-{os.getuid()}"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    target, failed = home / key, home / f"{key}.failed"
    if target.is_dir():
        return target
    with FileLock(home / f"{key}.lock", timeout=WAIT_SECONDS):
        if target.is_dir():
            return target
        if _is_recent(failed):
            # The process that failed has said why.
            logger.debug("a process of this node could not copy %s: it is read from there", folder)
            return folder
        try:
            _copy(files, target)
        except OSError:
            failed.touch()
            raise
    return target


def _is_recent(failed: Path) -> bool:
    try:
        return time.time() - failed.stat().st_mtime < RETRY_SECONDS
    except FileNotFoundError:
        return False


def _copy(files: list[Path], target: Path) -> None:
    temporary = target.with_name(f"{target.name}.tmp")
    # Only the holder of the lock writes it: what is there was left by a copier that died.
    shutil.rmtree(temporary, ignore_errors=True)
    size = sum(path.stat().st_size for path in files)
    begun = time.monotonic()
    try:
        temporary.mkdir()
        free = shutil.disk_usage(temporary).free
        if free < size:
            raise OSError(f"{size / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free")
        for path in files:
            # The hub's cache holds links to files.
            shutil.copyfile(path, temporary / path.name)
        temporary.rename(target)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    logger.info("%s: %.1f GB copied from %s in %.0f s", target, size / 1e9, files[0].parent, time.monotonic() - begun)
