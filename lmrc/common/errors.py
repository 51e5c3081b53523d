"""What a user can mend, as one sentence.

Everything derived from `UserError` ends a command with status 2 and its message on one line; any other exception is a
fault of ours and shows a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class UserError(ValueError):
    """A mistake in what was given: says what was given, what was expected and how to mend it."""


class DocumentError(UserError):
    """A document that breaks the contract of the DocRED format."""

    def __init__(self, file: str | Path, index: int, title: str | None, problem: str) -> None:
        shown = "without a title" if title is None else repr(title)
        super().__init__(f"{file}: document {index} ({shown}): {problem}")


class ConfigError(UserError):
    """An unknown option, or a value of the wrong type or out of range."""


class CorpusError(UserError):
    """A corpus or candidates folder that is missing, damaged, or written by a newer version."""


class RunError(UserError):
    """A run folder that does not fit what was asked of it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The sentence that names the most similar of `known`, or lists them all where none is similar."""
    choices = sorted(known)
    # The last part of a dotted name is what people misspell.
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]}?"
    return f"known: {', '.join(choices)}"
