"""Result of one check of `lmrc doctor` or of the pre-flight."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import click


@dataclass(frozen=True)
class Check:
    """The result of a check. Only `missing` prevents a launch.

    Attributes:
        level: ok, warning or missing.
        what: the finding.
        remedy: what to do, or the consequence.
    """

    level: Literal["ok", "warning", "missing"]
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}" if self.remedy else self.what


def ok(what: str) -> Check:
    """Return a check that passed."""
    return Check("ok", what)


def warning(what: str, remedy: str) -> Check:
    """Return a check of something that works, but not well."""
    return Check("warning", what, remedy)


def missing(what: str, remedy: str = "") -> Check:
    """Return a check of something necessary that is missing."""
    return Check("missing", what, remedy)


COLORS = {"ok": "green", "warning": "yellow", "missing": "red"}


def format_check(check: Check) -> str:
    """Format the check, with the remedy on its own line. click removes the color if the output is no terminal."""
    # click does not know these two variables.
    is_plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    level = f"{check.level:<7}"
    first = f"{level if is_plain else click.style(level, COLORS[check.level])}  {check.what}"
    return f"{first}\n{'':<7}  → {check.remedy}" if check.remedy else first
