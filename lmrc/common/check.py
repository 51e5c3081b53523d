"""One line of `lmrc doctor` and of the pre-flight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import click


@dataclass(frozen=True)
class Check:
    """The outcome of one check. Only `missing` keeps the suite, or a launch, from working."""

    level: Literal["ok", "warning", "missing"]
    what: str
    remedy: str = ""
    """What to do, or what is lost."""

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}" if self.remedy else self.what


def ok(what: str) -> Check:
    """Return the check of something that is as it should be."""
    return Check("ok", what)


def warning(what: str, remedy: str) -> Check:
    """Return the check of something that works, but not as well as it could."""
    return Check("warning", what, remedy)


def missing(what: str, remedy: str = "") -> Check:
    """Return the check of something essential that is not there."""
    return Check("missing", what, remedy)


COLORS = {"ok": "green", "warning": "yellow", "missing": "red"}


def lines(check: Check) -> str:
    """Return the check as it is shown on a terminal, with its remedy on a line of its own."""
    first = f"{click.style(f'{check.level:<7}', COLORS[check.level])}  {check.what}"
    return f"{first}\n{'':<7}  → {check.remedy}" if check.remedy else first
