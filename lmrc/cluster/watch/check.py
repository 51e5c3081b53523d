"""One line of `lmrc doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Check:
    """What was looked at. Only `missing` keeps the suite from working."""

    level: Literal["ok", "warning", "missing"]
    what: str
    remedy: str = ""
    """What to do, or what is lost."""


def ok(what: str) -> Check:
    """All is well."""
    return Check("ok", what)


def warning(what: str, remedy: str) -> Check:
    """It works, but not as well as it could."""
    return Check("warning", what, remedy)


def missing(what: str, remedy: str) -> Check:
    """Something essential is not there."""
    return Check("missing", what, remedy)
