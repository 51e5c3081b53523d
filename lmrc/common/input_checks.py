"""Checks of folders and files on the command line. They need no torch, so they fail fast."""

from __future__ import annotations

import os
from pathlib import Path

from lmrc.common.errors import UserError

# Stage: name of its model, and the file that a folder with such a model contains.
MODELS = {"rcp": ("relation candidate model", "config.json"), "rc": ("adapter", "adapter_config.json")}


def check_model(folder: Path, stage: str) -> None:
    """Check that `folder` holds a model of the stage (`rcp` or `rc`). The weights are not read.

    Raises:
        UserError: it does not. The message suggests the best/ folder if the model is there.
    """
    what, file = MODELS[stage]
    if (folder / file).is_file():
        return
    problem = f"{folder} holds no {what} ({file} is missing)" if folder.is_dir() else f"{folder} is no folder"
    if (folder / "best" / file).is_file():
        remedy = f"did you mean {folder / 'best'}?"
    else:
        remedy = f"give --{stage} the best/ folder of a finished launch/{stage}.py run, such as runs/NAME/best"
        (other,) = MODELS.keys() - {stage}
        if (folder / MODELS[other][1]).is_file():
            remedy = f"it holds what launch/{other}.py trained; {remedy}"
    raise UserError(f"{problem}: {remedy}")


def check_output(path: Path) -> None:
    """Check that the file `path` can be written, without writing it.

    Raises:
        UserError: it cannot be written.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: give a file to write, such as {path / 'triples.json'}")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise UserError(f"{path} cannot be written: {parent} is a file, not a folder; give another --out")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be written: no permission to write in {parent}; give another --out")
