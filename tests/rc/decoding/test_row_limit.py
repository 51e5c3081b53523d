from __future__ import annotations

import logging

import pytest
import torch

from lmrc.common.errors import UserError
from lmrc.rc.decoding.row_limit import RowLimit


def test_a_batch_that_is_too_large_is_split(caplog: pytest.LogCaptureFixture) -> None:
    """Items keep their order, and the limit stays for later batches."""
    released: list[int] = []

    def compute(batch: list[int]) -> list[int]:
        if len(batch) > 3:
            raise torch.OutOfMemoryError
        return [10 * item for item in batch]

    limit = RowLimit(16)
    with caplog.at_level(logging.WARNING):
        batches = list(limit.run(iter(range(10)), compute, lambda: released.append(1)))
    assert [batch for batch, _ in batches] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert [result for _, results in batches for result in results] == list(range(0, 100, 10))
    assert (limit.rows, len(released), len(caplog.records)) == (2, 2, 2)


def test_one_item_that_is_too_large_is_an_error() -> None:
    def compute(batch: list[int]) -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(UserError, match=r"a single query does not fit .* lower prompt.max_length"):
        list(RowLimit(2).run([1, 2], compute))
