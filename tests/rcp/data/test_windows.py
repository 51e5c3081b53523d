from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmrc.rcp.data.windows import Windows


def test_the_two_windows_of_the_published_code() -> None:
    # RoBERTa-like: the first window ends with two </s> (2), the second starts with <s> (0).
    windows = Windows(size=512, separators=2)
    ids = np.array([0, *range(1000, 1598), 2], dtype=np.int32)
    first, second = windows.split(ids)
    assert first.tolist() == [0, *range(1000, 1509), 2, 2]
    assert second.tolist() == [0, *range(1088, 1598), 2]
    assert (len(first), len(second)) == (512, 512)
    assert (windows.max_document_length, Windows(512, 1).max_document_length) == (1021, 1022)


@given(size=st.integers(8, 20), separators=st.integers(1, 2), data=st.data())
def test_located_positions_hold_the_same_word_pieces(size: int, separators: int, data: st.DataObject) -> None:
    windows = Windows(size, separators)
    length = data.draw(st.integers(3, windows.max_document_length))
    ids = np.arange(100, 100 + length, dtype=np.int32)
    positions = np.arange(length)
    counts = np.zeros(length, dtype=int)
    split = windows.split(ids)
    for window, (located, mask) in zip(split, windows.locate(positions, length), strict=True):
        assert len(window) <= size
        assert (window[located[mask]] == ids[positions[mask]]).all()
        assert (located[~mask] == 0).all()
        counts += mask
    assert (counts >= 1).all(), "no window contains the word piece"
    if len(split) == 2:
        # [CLS] counts in the first window only, and the last token in the second only.
        assert counts[0] == counts[-1] == 1

    # Merging inverts splitting if the values do not depend on the window.
    hidden = [torch.from_numpy(window)[:, None].float() for window in split]
    merged, rows = windows.merge(hidden, [torch.ones(3, 2, len(window)) for window in split], length)
    assert merged[:, 0].tolist() == ids.tolist()
    assert rows.shape == (3, 2, length)
