"""Trained models by name: a folder of this machine, or a model that `lmrc push` has put on the hub."""

from __future__ import annotations

import logging
from pathlib import Path

from lmrc.pretrained.packaged import PREFIX

logger = logging.getLogger(__name__)


def find_trained(given: Path) -> Path:
    """Return the folder of a trained model, after a download from the hub if it is a name there.

    A model that the cache has is not asked for again; `lmrc models fetch NAME` gets its newest version.

    Args:
        given: A folder, or OWNER/NAME. A path whose first folder exists is never taken for a name.

    Raises:
        UserError: The hub has no such model, or cannot be reached.
    """
    # `lmrc push` names models OWNER/NAME.
    if "/" not in given.as_posix() or Path(given.parts[0]).exists() or not is_hub_name(given.as_posix()):
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


def is_hub_name(model: str) -> bool:
    """Return True if a model is given by its name on the hub, NAME or OWNER/NAME, and not by a folder."""
    is_path = model.startswith((PREFIX, "/", ".", "~")) or model.count("/") > 1
    return not is_path and not Path(model).is_dir()
