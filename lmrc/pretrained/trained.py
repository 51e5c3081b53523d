"""Trained models by name: a folder of this machine, or a model that `lmrc push` has put on the hub."""

from __future__ import annotations

import logging
from pathlib import Path

logger = logging.getLogger(__name__)


def find_trained(given: Path) -> Path:
    """Return the folder of a trained model, after a download from the hub if it is a name there.

    A model that the cache has is not asked for again; `lmrc models fetch NAME` gets its newest version.

    Args:
        given: A folder, or OWNER/NAME. A path whose first folder exists is never taken for a name.

    Raises:
        UserError: The hub has no such model, or cannot be reached.
    """
    if given.exists() or not _is_hub_name(given):
        return given
    # huggingface_hub takes a second to import.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    from lmrc.pretrained.fetch import fetch

    name = given.as_posix()
    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        logger.info(f"{name} is no folder here: fetching the model of this name from the hub")
        folder = fetch(name)
    logger.info(f"{name}: {folder}")
    return folder


def _is_hub_name(given: Path) -> bool:
    return len(given.parts) == 2 and given.parts[0] not in ("/", "..", "~") and not Path(given.parts[0]).exists()
