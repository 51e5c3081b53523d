"""An inference whose use of the hardware is measured, in one worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmrc.inference.protocol import Inference
from lmrc.usage.meter import UseMeter


class MeteredInference:
    """Counts the documents and the seconds of a worker, and records them in the run folder."""

    def __init__(self, inference: Inference, meter: UseMeter, run_folder: Path) -> None:
        self.documents, self.identity, self.schema = inference.documents, inference.identity, inference.schema
        self._inference, self._meter, self._folder = inference, meter, run_folder
        self._is_loaded = False

    def load(self) -> None:
        """Load the model of the inference. The time until then is the start."""
        self._inference.load()
        self._started()

    def _started(self) -> None:
        self._is_loaded = True
        self._meter.started()

    def rows(self, documents: range) -> list[dict[str, Any]]:
        """Return the rows of the inference for these documents."""
        rows = self._inference.rows(documents)
        self._meter.add(len(documents))
        self._meter.record(self._folder)
        self._meter.window()
        return rows

    def finish(self, rows: Iterator[dict[str, Any]]) -> dict[str, Any]:
        """Write the outputs of the stage."""
        return self._inference.finish(rows)

    def close(self) -> None:
        """Write the last record. A worker that found no unit has only started."""
        if not self._is_loaded:
            self._started()
        self._meter.close(self._folder)
