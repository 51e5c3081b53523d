"""Handlers of the signals that ask a process to stop.

SLURM sends USR2 as the warning if the site configures it, else TERM. Ctrl-C (INT) is handled the same way. USR1 is not
used, because NCCL uses it.
"""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from lmrc.common.exit_codes import Interrupted

if TYPE_CHECKING:
    from typing_extensions import Self

SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)


class Preempted(Interrupted):
    """A signal stopped the process after a training was saved or a work unit released; the same command resumes."""


class SignalListener(ABC):
    """Context manager that handles SIGNALS."""

    def __init__(self) -> None:
        self._previous: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @abstractmethod
    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""


class StopFlag(SignalListener):
    """Flag that a training polls. A second Ctrl-C raises KeyboardInterrupt."""

    def __init__(self) -> None:
        super().__init__()
        # The last signal; 0 for none. Ranks must agree on it before they act.
        self.signal = 0

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.signal = number


def signal_name(number: int) -> str:
    """Return the name of a signal, such as SIGTERM for 15; empty for 0."""
    return signal.Signals(number).name if number else ""
