"""Set-up of the logger "lmrc": one format, INFO on rank 0 and WARNING on other ranks, or everything with --verbose.

Only the entry points call it: the commands, the launchers and the job processes. A program that imports lmrc
configures logging itself.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from typing import Literal, TextIO


class _LineFormatter(logging.Formatter):
    """Format of a line: time, level (from WARNING on), rank and host (except on rank 0), message."""

    def __init__(self, rank: int) -> None:
        super().__init__("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S")
        self._process = f"rank {rank} on {socket.gethostname()}: " if rank else ""

    def formatMessage(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname} " if record.levelno >= logging.WARNING else ""
        return f"{record.asctime} {level}{self._process}{record.message}"


class _LineHandler(logging.Handler):
    """Handler that writes above progress bars. It looks up sys.stdout or sys.stderr for each line."""

    def __init__(self, stream: Literal["stdout", "stderr"]) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm  # 70 ms, which `lmrc --help` need not wait for

        try:
            stream: TextIO = getattr(sys, self._stream)
            tqdm.write(self.format(record), file=stream)
            stream.flush()
        except BrokenPipeError:  # `lmrc … | head`: exit_status ends the command
            raise
        except Exception:
            self.handleError(record)


def set_up_logging(stream: Literal["stdout", "stderr"], rank: int = 0, verbose: bool = False) -> None:
    """Log lmrc's messages to a stream. A second call replaces the set-up of the first.

    Args:
        stream: name of the stream in `sys`.
        rank: rank of this process. Ranks other than 0 log only warnings and errors, with their rank and host.
        verbose: log all levels on all ranks.
    """
    logger = logging.getLogger("lmrc")
    for handler in logger.handlers[:]:
        if isinstance(handler, _LineHandler):
            logger.removeHandler(handler)
    handler = _LineHandler(stream)
    handler.setFormatter(_LineFormatter(rank))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else logging.INFO if rank == 0 else logging.WARNING)


def set_up_stage_logging(verbose: bool = False) -> None:
    """Log to stdout, the log of a stage's process, whose rank is in RANK."""
    set_up_logging("stdout", int(os.environ.get("RANK", "0")), verbose)
