"""The inference interface between distributed workers and the stages propose and classify."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import pyarrow as pa


class Inference(Protocol):
    """The inference of a stage over a corpus. A worker may be killed at any time.

    Attributes:
        documents: Number of documents.
        identity: Fingerprint of everything that the rows depend on: corpus, weights, options.
        schema: Schema of a row. There is one row per document.
    """

    documents: int
    identity: str
    schema: pa.Schema

    def load(self) -> None:
        """Load the model. A worker calls this once, before its first unit.

        Raises:
            UserError: No unit can be computed here: a package is missing, or the model is damaged or too large.
        """

    def rows(self, documents: range) -> list[dict[str, Any]]:
        """Return the rows of these documents, in order. They depend on no other documents.

        Raises:
            UserError: One of these documents cannot be processed.
        """

    def finish(self, rows: Iterator[dict[str, Any]]) -> dict[str, Any]:
        """Write the outputs of the stage. Needs no model.

        An earlier call may have been interrupted, so existing outputs are replaced.

        Args:
            rows: The rows of all documents, in order. They can be iterated once.

        Returns:
            The content of DONE.
        """
