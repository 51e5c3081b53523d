"""Errors that a user can fix, and the wording of messages.

A `UserError` ends a command with status 2 and its message on one line. Any other exception is a bug and shows a
traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class UserError(ValueError):
    """Wrong input. The message says what was given, what was expected and how to fix it."""


class DocumentError(UserError):
    """A document that is not in DocRED format."""

    def __init__(self, file: str | Path, index: int, title: str | None, problem: str) -> None:
        name = "without a title" if title is None else repr(title)
        super().__init__(f"{file}: document {index} ({name}): {problem}")


class ConfigError(UserError):
    """An unknown option, or an option with a wrong value."""


class CorpusError(UserError):
    """A corpus or candidates folder that is missing, damaged or written by a newer version."""


class RunError(UserError):
    """A run folder that cannot be used for this command."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a sentence that suggests the most similar name of `known`, or lists all if none is similar."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]}?"
    return f"known: {', '.join(choices)}"


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun in the right number, such as 1 document or 1,000 documents."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"
