"""An inference that a signal interrupts: the worker then gives its unit back, and others take it over."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import FrameType
from typing import Any

from lmrc.inference.protocol import Inference
from lmrc.runs.signals import Preempted, SignalListener, signal_name


class InterruptibleInference(SignalListener):
    """An inference that a signal interrupts while it loads its model or computes rows, and at no other place."""

    def __init__(self, inference: Inference) -> None:
        super().__init__()
        self.documents, self.identity, self.schema = inference.documents, inference.identity, inference.schema
        self.finish = inference.finish
        self._inference = inference
        self._signal = 0
        self._computes = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        if self._computes:
            self._computes = False  # once: what follows must be able to give the unit back
            raise Preempted(f"{signal_name(number)}: the unit in hand is given back; the same command goes on")

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
