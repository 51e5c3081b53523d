"""An inference that a signal can interrupt, so that the worker releases its unit to others in time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import FrameType
from typing import Any

from lmrc.inference.protocol import Inference
from lmrc.runs.signals import Preempted, SignalListener, signal_name


class InterruptibleInference(SignalListener):
    """An inference that a signal interrupts only while the model is loaded or rows are computed."""

    def __init__(self, inference: Inference) -> None:
        super().__init__()
        self.documents, self.identity, self.schema = inference.documents, inference.identity, inference.schema
        self.finish = inference.finish
        self._inference = inference
        self._signal = 0
        self._is_interruptible = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        if self._is_interruptible:
            self._is_interruptible = False  # only once, so that a second signal does not prevent the release
            raise Preempted(f"{signal_name(number)}: the current unit is released; the same command goes on")

    def is_asked_to_stop(self) -> bool:
        """Return True if a signal came."""
        return bool(self._signal)

    def load(self) -> None:
        """Load the model of the inference.

        Raises:
            Preempted: A signal came meanwhile.
        """
        with self._interruptible():
            self._inference.load()

    def rows(self, documents: range) -> list[dict[str, Any]]:
        """Return the rows of the inference for these documents.

        Raises:
            Preempted: A signal came meanwhile.
        """
        with self._interruptible():
            return self._inference.rows(documents)

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        self._is_interruptible = True
        try:
            yield
        finally:
            self._is_interruptible = False
