"""How a command ends: 0 on success, 2 on a user's mistake with one line that mends it, 1 otherwise."""

from __future__ import annotations

import sys
from collections.abc import Callable

from lmrc.common.errors import UserError


class Interrupted(Exception):
    """The work stopped on a signal and was saved; the message says how to go on."""


class Failed(Exception):
    """The work could not be done for a reason outside of what was given; the message says all that is known."""


def exit_status(command: Callable[[], object]) -> int:
    """Run `command` and turn its outcome into an exit status; a fault of ours keeps its traceback."""
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
