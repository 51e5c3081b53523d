"""What distributed inference asks of a stage, whatever unit of documents a worker has claimed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import pyarrow as pa


class Inference(Protocol):
    """One stage's inference over a corpus. A worker may be killed between any two instructions."""

    documents: int
    """How many documents there are to answer for."""
    identity: str
    """SHA-256 of all that decides the rows: corpus, weights, options. Another identity is other work."""
    schema: pa.Schema
    """Of a row; there is one row a document."""

    def load(self) -> None:
        """Load the model. A worker calls this once, before its first unit.

        Raises:
            UserError: if no unit can be computed here: a package is missing, a model is damaged or does not fit.
        """

    def rows(self, documents: range) -> list[dict[str, Any]]:
        """The rows of these documents, in order; a function of the range alone.

        Raises:
            UserError: if one of these documents cannot be answered for.
        """

    def finish(self, rows: Iterator[dict[str, Any]]) -> dict[str, Any]:
        """Write the stage's outputs from the rows of all documents, in order, drawn once. Returns what DONE will hold.

        It may have been cut short before: what it finds of an earlier call is replaced. No model is loaded.
        """
