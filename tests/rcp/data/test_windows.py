from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmrc.rcp.data.windows import Windows


def test_the_two_windows_of_the_published_code() -> None:
    # 512 positions; RoBERTa-like: the first window closes with two separators (2), the second opens with <s> (0).
    windows = Windows(size=512, separators=2)
    ids = np.array([0, *range(1000, 1598), 2], dtype=np.int32)
    first, second = windows.split(ids)
    assert first.tolist() == [0, *range(1000, 1509), 2, 2]
    assert second.tolist() == [0, *range(1088, 1598), 2]
    assert (len(first), len(second)) == (512, 512)
    assert (windows.max_document_length, Windows(512, 1).max_document_length) == (1021, 1022)


@given(size=st.integers(8, 20), separators=st.integers(1, 2), data=st.data())
def test_every_word_piece_is_found_where_it_is_said_to_be(size: int, separators: int, data: st.DataObject) -> None:
    windows = Windows(size, separators)
    length = data.draw(st.integers(3, windows.max_document_length))
    ids = np.arange(100, 100 + length, dtype=np.int32)
    positions = np.arange(length)
    found = np.zeros(length, dtype=int)
    cut = windows.split(ids)
    for window, (places, inside) in zip(cut, windows.locate(positions, length), strict=True):
        assert len(window) <= size
        assert (window[places[inside]] == ids[positions[inside]]).all()
        assert (places[~inside] == 0).all()
        found += inside
    assert (found >= 1).all(), "a word piece that no window sees"
    if len(cut) == 2:
        # The start token belongs to the first window and the end to the second: both again would count them twice.
        assert found[0] == found[-1] == 1

    # What does not depend on the window comes back as it was: joining undoes cutting.
    hidden = [torch.from_numpy(window)[:, None].float() for window in cut]
    joined, rows = windows.merge(hidden, [torch.ones(3, 2, len(window)) for window in cut], length)
    assert joined[:, 0].tolist() == ids.tolist()
    assert rows.shape == (3, 2, length)
