"""Checks of given folders and files before anything is loaded. Needs no torch, so that a mistake is told at once."""

from __future__ import annotations

import os
from pathlib import Path

from lmrc.common.errors import UserError

# What a folder of each stage's model holds, and the file that is looked for.
MODELS = {"rcp": ("relation candidate model", "config.json"), "rc": ("adapter", "adapter_config.json")}


def check_model(folder: Path, stage: str) -> None:
    """Check that `folder` holds what launch/`stage`.py trained (`rcp` or `rc`); the weights are not read.

    Raises:
        UserError: it does not; the message offers its best/ folder if the model is there.
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
    """Check that the file `path` can be written, without writing it. Raises UserError if it cannot."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: give a file to write, such as {path / 'triples.json'}")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise UserError(f"{path} cannot be written: {above} is a file, not a folder; give another --out")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be written: no permission to write in {above}; give another --out")
