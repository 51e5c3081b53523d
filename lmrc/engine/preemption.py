"""Signals that ask a training to stop: they only set a flag, which the ranks agree on at a step boundary.

SLURM's warning is USR2 where the site sends one and TERM elsewhere; Ctrl-C is treated alike. NCCL keeps USR1 to itself.
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

from lmrc.engine.distributed import World
from lmrc.exits import Interrupted

SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)


class Preempted(Interrupted):
    """The training stopped on a signal after saving: the same command resumes it."""


class StopRequest:
    """Listens while it is entered; a second Ctrl-C stops at once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._signal = 0
        self._previous: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> StopRequest:
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self._signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self._signal = number

    def agreed(self) -> str:
        """The name of the signal that any rank has received, or "". Collective: all ranks get the same answer."""
        number = int(self._world.max(self._signal))
        return signal.Signals(number).name if number else ""
