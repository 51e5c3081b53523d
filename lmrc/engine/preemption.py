"""Signals that ask to stop. In a training they only set a flag, which the ranks agree on at a step boundary; a worker
of an inference drops the unit in hand, which others take over.

SLURM's warning is USR2 where the site sends one and TERM elsewhere; Ctrl-C is treated alike. NCCL keeps USR1 to itself.
"""

from __future__ import annotations

import contextlib
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from lmrc.engine.inference import Inference
from lmrc.exits import Interrupted

if TYPE_CHECKING:
    from typing_extensions import Self

SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)


class Preempted(Interrupted):
    """A training saved on a signal, or a worker gave its unit back: the same command goes on."""


class Listener(ABC):
    """Listens to SIGNALS while it is entered."""

    def __init__(self) -> None:
        self._previous: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @abstractmethod
    def _hear(self, number: int, frame: FrameType | None) -> None:
        """A signal has come."""


class StopRequest(Listener):
    """A training's: a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        super().__init__()
        self.signal = 0
        """The last signal that came; 0 for none. Ranks must agree on it before they act."""

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.signal = number


def name_of(number: int) -> str:
    """SIGTERM for 15; "" for 0."""
    return signal.Signals(number).name if number else ""


class Stoppable(Listener):
    """An inference that a signal interrupts while it loads its model or computes rows, and at no other place."""

    def __init__(self, inference: Inference) -> None:
        super().__init__()
        self.documents, self.identity, self.schema = inference.documents, inference.identity, inference.schema
        self.finish = inference.finish
        self._inference = inference
        self._signal = 0
        self._computes = False

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        if self._computes:
            self._computes = False  # once: what follows must be able to give the unit back
            raise Preempted(f"{name_of(number)}: the unit in hand is given back; the same command goes on")

    def is_asked_to_stop(self) -> bool:
        """Whether a signal has come."""
        return bool(self._signal)

    def load(self) -> None:
        """Load the model of the inference. Raises Preempted if a signal comes meanwhile."""
        with self._interruptible():
            self._inference.load()

    def rows(self, documents: range) -> list[dict[str, Any]]:
        """Return the rows of the inference. Raises Preempted if a signal comes meanwhile."""
        with self._interruptible():
            return self._inference.rows(documents)

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        self._computes = True
        try:
            yield
        finally:
            self._computes = False
