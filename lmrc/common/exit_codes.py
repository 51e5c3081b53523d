"""Exit status of a command: 0 on success, 2 after a UserError, 1 after any other error."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable

from lmrc.common.errors import UserError


class Interrupted(Exception):
    """A signal stopped the work, which was saved. The message says how to resume."""


class Failed(Exception):
    """The work failed for a reason other than wrong input. The message says all that is known."""


def exit_status(command: Callable[[], object]) -> int:
    """Run `command`, print its errors and return the exit status. Exceptions that are bugs are not caught.

    A reader that closes the output, as in `lmrc … | head`, ends the command without a message.
    """
    try:
        status = _status(command)
        # Here, because a closed pipe would otherwise be noticed after this function.
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return 1
    return status


def _status(command: Callable[[], object]) -> int:
    try:
        command()
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except (Interrupted, Failed) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; the same command resumes.", file=sys.stderr)
        return 1
    return 0


def _discard_output() -> None:
    """Send what is still in the buffers nowhere. Python flushes them at its end and would print an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        # A stream of a test has no file.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
