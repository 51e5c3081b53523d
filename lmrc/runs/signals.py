"""Handlers of the signals that ask a process to stop.

SLURM warns by USR2 if the site sends a user signal, else by TERM. Ctrl-C is treated alike. NCCL uses USR1 itself.
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
    """A training saved on a signal, or a worker gave its unit back: the same command goes on."""


class SignalListener(ABC):
    """Listens to SIGNALS while it is entered."""

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
        """A signal has come."""


class StopFlag(SignalListener):
    """A training's: a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        super().__init__()
        self.signal = 0
        """The last signal that came; 0 for none. Ranks must agree on it before they act."""

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.signal = number


def name_of(number: int) -> str:
    """SIGTERM for 15; "" for 0."""
    return signal.Signals(number).name if number else ""
