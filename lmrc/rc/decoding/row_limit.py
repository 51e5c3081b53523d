"""Number of rows that are computed together. An out-of-memory error halves it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import TypeVar

import torch

from lmrc.common.errors import UserError

logger = logging.getLogger(__name__)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class RowLimit:
    """The largest batch that fits into memory, as far as it is known.

    Attributes:
        rows: number of rows.
    """

    def __init__(self, rows: int) -> None:
        """Start with a batch size."""
        self.rows = rows

    def halve(self, rows: int, error: torch.OutOfMemoryError) -> None:
        """Halve the limit after a batch of `rows` rows was too large, and log it.

        Raises:
            UserError: if a single row is too large.
        """
        if rows == 1:
            # Not in the pre-flight: the free memory of a GPU is known on the node.
            raise UserError(
                "a single query does not fit into the memory of the GPU beside the LM: give more GPUs "
                "(decode.gpus_per_worker, or --gpus of lmrc extract), lower prompt.max_length, or choose a smaller or "
                "quantized LM"
            ) from error
        self.rows = rows // 2
        logger.warning(
            "%d queries at once do not fit into the memory of the GPU: going on with %d (decode.batch_size)",
            rows,
            self.rows,
        )

    def run(
        self,
        items: Iterable[_Item],
        compute: Callable[[list[_Item]], _Result],
        release: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[list[_Item], _Result]]:
        """Yield batches of items and what `compute` returns for them. A batch that is too large is split.

        Args:
            items: read as they are needed.
            release: frees memory after an out-of-memory error.

        Raises:
            UserError: if a single item is too large.
        """
        remaining = iter(items)
        while batch := list(islice(remaining, self.rows)):
            try:
                result = compute(batch)
            except torch.OutOfMemoryError as error:
                self.halve(len(batch), error)
                remaining = chain(batch, remaining)
                release()
            else:
                yield batch, result
