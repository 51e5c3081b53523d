"""Two overlapping windows for documents longer than the encoder's position embeddings.

As in the published code (ATLOP's long_seq.py), the first window holds the beginning of the document and ends with [SEP]
(twice for RoBERTa-like encoders). The second window starts with [CLS] and holds the end. In the overlap, hidden states
are averaged; attention rows are added and normalized. The published code allows documents as long as both windows, so
that no window holds the two or three word pieces in the middle. `max_document_length` leaves no such gap.
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

# Avoids a division by zero if a marker attends only to special tokens that are dropped.
EPSILON = 1e-10


@dataclass(frozen=True, slots=True)
class Windows:
    """Window layout of an encoder.

    Attributes:
        size: positions per window.
        separators: number of [SEP] tokens that end the first of two windows.
        first_position: position id of the first token.
    """

    size: int
    separators: int
    first_position: int = 0

    @classmethod
    def of(cls, encoder: nn.Module) -> Windows:
        """Return the window layout of an encoder, which may be on the meta device.

        Raises:
            UserError: if the encoder has no absolute position embeddings.
        """
        try:
            table = encoder.get_submodule("embeddings.position_embeddings")
        except AttributeError:
            table = None
        if not isinstance(table, nn.Embedding):
            raise UserError(
                f"the encoder {type(encoder).__name__} has no position embeddings, which define the length of a "
                "window; choose a BERT- or RoBERTa-like encoder in model.encoder"
            )
        # RoBERTa numbers positions from its padding index + 1, and separates two texts by two tokens.
        padding = table.padding_idx
        first = 0 if padding is None else padding + 1
        return cls(table.num_embeddings - first, 1 if padding is None else 2, first)

    @property
    def max_document_length(self) -> int:
        """Return the maximum number of word pieces that two windows cover without a gap."""
        return 2 * self.size - 1 - self.separators

    def fit(self, max_length: int) -> int:
        """Return `max_length`, lowered to `max_document_length` if necessary.

        Raises:
            ConfigError: if `max_length` exceeds the positions of two windows. Up to there it is lowered, because the
                published code allows it.
        """
        if max_length > 2 * self.size:
            raise ConfigError(
                f"model.max_length is {max_length}, but this encoder reads {self.size} word pieces at once and "
                f"documents are read in two windows: give --model.max_length {self.max_document_length} or less, or "
                "choose another model.encoder"
            )
        return min(max_length, self.max_document_length)

    def split(self, input_ids: NDArray[np.int32]) -> list[NDArray[np.int32]]:
        """Return the one or two windows of a document.

        Args:
            input_ids: word pieces of the document, [length], length <= `max_document_length`.
        """
        if len(input_ids) <= self.size:
            return [input_ids]
        closing = np.repeat(input_ids[-1:], self.separators)
        return [
            np.concatenate([input_ids[: self.size - self.separators], closing]),
            np.concatenate([input_ids[:1], input_ids[len(input_ids) - self.size + 1 :]]),
        ]

    def locate(self, positions: NDArray[np.int64], length: int) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """Convert positions in a document to positions in its windows.

        Args:
            positions: positions in the document, [positions].
            length: word pieces of the document.

        Returns:
            Per window, the positions (0 if outside) and a mask of the positions inside the window, both [positions].
        """
        if length <= self.size:
            return [(positions, np.ones(len(positions), dtype=np.bool_))]
        shifted = positions - (length - self.size)
        masks = [positions < self.size - self.separators, shifted >= 1]
        return [(np.where(mask, at, 0), mask) for at, mask in zip([positions, shifted], masks, strict=True)]

    def merge(self, hidden: Sequence[Tensor], attention: Sequence[Tensor], length: int) -> tuple[Tensor, Tensor]:
        """Merge the one or two windows of a document.

        Args:
            hidden: hidden states of each window, [width, d].
            attention: attention rows in each window, [heads, rows, width]; zero if the row is outside the window.
            length: word pieces of the document.

        Returns:
            Hidden states [length, d] and attention rows [heads, rows, length].
        """
        if len(hidden) == 1:
            return hidden[0], attention[0]
        end, begin = self.size - self.separators, length - self.size + 1
        counts = torch.ones(length, 1, dtype=hidden[0].dtype, device=hidden[0].device)
        counts[begin:end] = 2
        merged = F.pad(hidden[0][:end], (0, 0, 0, length - end)) + F.pad(hidden[1][1:], (0, 0, begin, 0))
        rows = F.pad(attention[0][..., :end], (0, length - end)) + F.pad(attention[1][..., 1:], (begin, 0))
        return merged / counts, rows / (rows.sum(-1, keepdim=True) + EPSILON)
