"""Exit status of a command: 0 on success, 2 after a UserError, 1 after any other error."""

from __future__ import annotations

import sys
from collections.abc import Callable

from lmrc.common.errors import UserError


class Interrupted(Exception):
    """A signal stopped the work, which was saved. The message says how to resume."""


class Failed(Exception):
    """The work failed for a reason other than wrong input. The message says all that is known."""


def exit_status(command: Callable[[], object]) -> int:
    """Run `command`, print its errors and return the exit status. Exceptions that are bugs are not caught."""
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
    except BrokenPipeError:  # `lmrc … | head`
        return 1
    return 0
