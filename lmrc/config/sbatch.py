"""The type of `cluster.sbatch`: more options of sbatch, by their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, StrictBool

SbatchValue = str | StrictBool | None
"""A value; true: a flag without a value; none: leave out the option that the launcher would set."""


def _normalize(options: object) -> object:
    """Return the options with underscores in their names and numbers of YAML as text."""
    if not isinstance(options, Mapping):
        return options
    normal: dict[str, object] = {}
    for name, value in options.items():
        key = str(name).removeprefix("--").replace("-", "_")
        if key in normal:
            raise ValueError(f"{key.replace('_', '-')} is given twice")
        if isinstance(value, str) and not value:
            raise ValueError(f"{name} has an empty value: give true for a flag, none to leave the option out")
        normal[key] = str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
    return normal


SbatchOptions = Annotated[dict[str, SbatchValue], BeforeValidator(_normalize)]
