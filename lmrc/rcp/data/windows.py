"""Documents longer than the encoder's positions: two overlapping windows, put together again.

As in the published code (ATLOP's long_seq.py): the first window holds the document's beginning and closes with the
separator (two of them for RoBERTa-like encoders), the second opens with the start token and holds the end. Where they
overlap, hidden states are averaged; attention is added and each row normalised. The published code lets a document be
as long as both windows, which leaves two or three word pieces between them unseen; here `longest` leaves no gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lmrc.common.errors import ConfigError, UserError

# Guards the division where a marker's attention goes to nothing but tokens outside the document.
EPSILON = 1e-10


@dataclass(frozen=True, slots=True)
class Windows:
    """How documents are cut: `size` positions a window, `separators` closing tokens of the first of two windows."""

    size: int
    separators: int
    first_position: int = 0
    """Number of the first position in the encoder's table."""

    @classmethod
    def of(cls, encoder: nn.Module) -> Windows:
        """Return the windows of an encoder. Its weights are not read, so it may be on the meta device.

        Raises:
            UserError: if the encoder has no table of positions.
        """
        try:
            table = encoder.get_submodule("embeddings.position_embeddings")
        except AttributeError:
            table = None
        if not isinstance(table, nn.Embedding):
            raise UserError(
                f"the encoder {type(encoder).__name__} has no table of positions, which tells how long a window is; "
                "choose a BERT- or RoBERTa-like encoder in model.encoder"
            )
        # RoBERTa numbers positions from its padding index + 1, and separates two texts by two tokens.
        padding = table.padding_idx
        first = 0 if padding is None else padding + 1
        return cls(table.num_embeddings - first, 1 if padding is None else 2, first)

    @property
    def longest(self) -> int:
        """The longest document in word pieces that two windows cover without a gap."""
        return 2 * self.size - 1 - self.separators

    def fit(self, max_length: int) -> int:
        """Return how many word pieces of a document are read if `max_length` are asked for: `longest` at most.

        Raises:
            ConfigError: if two windows do not have so many positions. The published code reads that many, and loses
                two or three word pieces between the windows.
        """
        if max_length > 2 * self.size:
            raise ConfigError(
                f"model.max_length is {max_length}, but this encoder reads {self.size} word pieces at once and "
                f"documents are read in two windows: give --model.max_length {self.longest} or less, or choose another "
                "model.encoder"
            )
        return min(max_length, self.longest)

    def cut(self, input_ids: NDArray[np.int32]) -> list[NDArray[np.int32]]:
        """The one or two windows of a document, its word pieces [length] with length <= `longest`."""
        if len(input_ids) <= self.size:
            return [input_ids]
        closing = np.repeat(input_ids[-1:], self.separators)
        return [
            np.concatenate([input_ids[: self.size - self.separators], closing]),
            np.concatenate([input_ids[:1], input_ids[len(input_ids) - self.size + 1 :]]),
        ]

    def places(self, positions: NDArray[np.int64], length: int) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """Per window of a document of `length`: where its `positions` are in the window, and whether they are in it.

        A position that is not in the window is given as 0.
        """
        if length <= self.size:
            return [(positions, np.ones(len(positions), dtype=np.bool_))]
        second = positions - (length - self.size)
        inside = [positions < self.size - self.separators, second >= 1]
        return [(np.where(held, place, 0), held) for place, held in zip([positions, second], inside, strict=True)]

    def join(self, hidden: Sequence[Tensor], attention: Sequence[Tensor], length: int) -> tuple[Tensor, Tensor]:
        """Put a document together.

        Of its one or two windows, hidden: [width, d] each; attention: [heads, rows, width] each, zero for rows that are
        not in the window. Returns hidden [length, d] and attention [heads, rows, length].
        """
        if len(hidden) == 1:
            return hidden[0], attention[0]
        end, begin = self.size - self.separators, length - self.size + 1
        seen = torch.ones(length, 1, dtype=hidden[0].dtype, device=hidden[0].device)
        seen[begin:end] = 2
        joined = F.pad(hidden[0][:end], (0, 0, 0, length - end)) + F.pad(hidden[1][1:], (0, 0, begin, 0))
        rows = F.pad(attention[0][..., :end], (0, length - end)) + F.pad(attention[1][..., 1:], (begin, 0))
        return joined / seen, rows / (rows.sum(-1, keepdim=True) + EPSILON)
