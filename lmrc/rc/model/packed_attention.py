"""Packed attention: several sequences are concatenated without padding, and a shared prefix is computed once.

A transformers LM whose attention implementation is `IMPLEMENTATION` calls the `AttentionLayout` that is passed to
`packed_forward`. The layout decides which tokens attend to which. `lmrc.rc.model.kv_cache` has the layouts for
inference.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from lmrc.common.errors import ConfigError, UserError
from lmrc.kernels.masked_attention import attention
from lmrc.kernels.varlen_attention import VarlenLayout, varlen_attention

IMPLEMENTATION = "packed_texts"
_REMEDY = "choose a Llama-like causal LM in model.base"


class AttentionLayout(Protocol):
    """Attention pattern of a forward pass.

    Attributes:
        layers: indices of the layers that have called `attend`.
    """

    layers: set[int]

    @property
    def max_length(self) -> int:
        """Number of tokens of the longest sequence, including cached ones."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """Compute the attention of one layer.

        Args:
            query: [1, heads, tokens, head size].
            key: [1, key heads, tokens, head size].
            value: like `key`.
            scale: factor of the scores; by default 1 / sqrt(head size).

        Returns:
            [1, tokens, heads, head size].
        """


@dataclass
class PackedSequences:
    """Layout (`AttentionLayout`) for training: an optional shared prefix, then the rest of each sequence.

    Attributes:
        prefix_length: tokens of the shared prefix, or 0.
        lengths: tokens of each sequence after the prefix.
    """

    prefix_length: int
    lengths: Sequence[int]
    layers: set[int] = field(default_factory=set)

    @property
    def max_length(self) -> int:
        """See `AttentionLayout`."""
        return self.prefix_length + max(self.lengths)

    def positions(self) -> Tensor:
        """Return the position of each token in its sequence, int64 [tokens]."""
        parts = [torch.arange(self.prefix_length)]
        parts += [torch.arange(self.prefix_length, self.prefix_length + length) for length in self.lengths]
        return torch.cat(parts)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """See `AttentionLayout`."""
        self.layers.add(layer)
        query, key, value = (part.squeeze(0).transpose(0, 1) for part in (query, key, value))
        keys, values = self.with_prefix(key), self.with_prefix(value)
        return varlen_attention(query, keys, values, self._layout, causal=True, scale=scale).unsqueeze(0)

    @property
    def tokens(self) -> int:
        """Number of tokens, the prefix counted once."""
        return self.prefix_length + sum(self.lengths)

    @property
    def query_lengths(self) -> list[int]:
        """Number of queries of each sequence for `varlen_attention`. The prefix and the first rest are one sequence."""
        first, *others = self.lengths
        return [self.prefix_length + first, *others]

    @property
    def key_lengths(self) -> list[int]:
        """Number of keys of each sequence for `varlen_attention`."""
        return [self.prefix_length + length for length in self.lengths]

    @cached_property
    def _layout(self) -> VarlenLayout:
        return VarlenLayout.of(self.query_lengths, self.key_lengths)

    def with_prefix(self, tensor: Tensor) -> Tensor:
        """Repeat the prefix in front of each sequence if several share it.

        Args:
            tensor: keys or values of all tokens, [tokens, key heads, head size].
        """
        if not self.prefix_length or len(self.lengths) == 1:
            return tensor
        prefix, *rests = torch.split(tensor, [self.prefix_length, *self.lengths])
        # The gradient of `expand` is one sum, accumulated in float32. An index would add in bf16, in any order.
        copies = prefix.expand(len(rests), *prefix.shape).unbind()
        return torch.cat([part for sequence in zip(copies, rests, strict=True) for part in sequence])


@dataclass
class PackedGroups:
    """Layout (`AttentionLayout`) of several groups of sequences, each with a shared prefix of its own."""

    groups: Sequence[PackedSequences]
    layers: set[int] = field(default_factory=set)

    @property
    def max_length(self) -> int:
        """See `AttentionLayout`."""
        return max(group.max_length for group in self.groups)

    def positions(self) -> Tensor:
        """Return the position of each token in its sequence, int64 [tokens]."""
        return torch.cat([group.positions() for group in self.groups])

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """See `AttentionLayout`."""
        self.layers.add(layer)
        query, key, value = (part.squeeze(0).transpose(0, 1) for part in (query, key, value))
        keys, values = self._with_prefixes(key), self._with_prefixes(value)
        return varlen_attention(query, keys, values, self._layout, causal=True, scale=scale).unsqueeze(0)

    @cached_property
    def _layout(self) -> VarlenLayout:
        return VarlenLayout.of(
            [length for group in self.groups for length in group.query_lengths],
            [length for group in self.groups for length in group.key_lengths],
        )

    def _with_prefixes(self, tensor: Tensor) -> Tensor:
        parts = torch.split(tensor, [group.tokens for group in self.groups])
        return torch.cat([group.with_prefix(part) for group, part in zip(self.groups, parts, strict=True)])


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    layout: AttentionLayout | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Compute attention for transformers, which calls this in every layer. Without a layout, one sequence is causal."""
    if options.get("softcap") is not None or options.get("s_aux") is not None or options.get("dropout"):
        # Not in the pre-flight: it shows in a forward pass.
        raise ConfigError(f"the attention of {type(module).__name__} has a softcap, a sink or dropout: {_REMEDY}")
    window = options.get("sliding_window")
    if window is not None and (key.shape[2] if layout is None else layout.max_length) > window:
        # Not in the pre-flight: it shows in a forward pass.
        raise UserError(
            f"the attention of {type(module).__name__} is limited to a window of {window} tokens: lower "
            "prompt.max_length to that"
        )
    if layout is None:
        if len(query) > 1:
            # More than one row: some may be padded, and this function ignores the mask.
            raise ValueError(
                f"a batch of {len(query)} rows without a layout: concatenate the sequences and call packed_forward"
            )
        return attention(query, key, value, scaling).transpose(1, 2), None
    return layout.attend(int(module.layer_idx), query, key, value, scaling), None  # type: ignore[arg-type]


AttentionInterface.register(IMPLEMENTATION, _attend)


def packed_forward(
    model: nn.Module, input_ids: Tensor, positions: Tensor, layout: AttentionLayout, logit_positions: Tensor
) -> Tensor:
    """Run one forward pass over the tokens of a layout.

    If the LM can select logits, only those at `logit_positions` are computed.

    Args:
        model: the LM, possibly wrapped by PEFT, DDP or DeepSpeed.
        input_ids: int64 [tokens].
        positions: position of each token in its sequence, int64 [tokens].
        logit_positions: indices of the tokens whose logits to return, int64 [selected].

    Returns:
        Logits [selected, vocabulary].

    Raises:
        ConfigError: if the LM does not use transformers' attention interface.
        UserError: if a sequence is longer than the LM's position limit or sliding window.
    """
    check_positions(model, layout.max_length)
    # A list has no device: on several GPUs the LM head may be on another one than the tokens.
    selected = logit_positions.tolist() if is_spread(model) else logit_positions
    keep = {"logits_to_keep": selected} if _selects_logits(model) else {}
    output = model(input_ids=input_ids[None], position_ids=positions[None], layout=layout, use_cache=False, **keep)
    if len(layout.layers) < _unwrap(model).config.num_hidden_layers:
        # Not in the pre-flight: it shows in a forward pass.
        raise ConfigError(f"{type(_unwrap(model)).__name__} does not support packed sequences: {_REMEDY}")
    logits: Tensor = output.logits[0]
    return logits if keep else logits.index_select(0, logit_positions)


def check_positions(model: nn.Module, length: int) -> None:
    """Check that a sequence of `length` tokens is within the LM's position limit; a longer one gives poor output.

    Raises:
        UserError: if it is longer.
    """
    config = _unwrap(model).config
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and length > limit:
        # Not in the pre-flight: every document would have to be tokenized; the pre-flight compares prompt.max_length.
        raise UserError(
            f"a text has {length} tokens, but the LM ({config.model_type}) is limited to {limit} positions: lower "
            "prompt.max_length to that, or choose another model.base"
        )


def is_spread(model: nn.Module) -> bool:
    """Return whether the layers are on several devices, so that accelerate moves their inputs between them."""
    return len(set(getattr(_unwrap(model), "hf_device_map", {}).values())) > 1


def _unwrap(model: nn.Module) -> PreTrainedModel:
    """Return the LM inside PEFT, DDP or DeepSpeed wrappers."""
    while not isinstance(model, PreTrainedModel):
        model = model.module if isinstance(getattr(model, "module", None), nn.Module) else model.get_base_model()  # type: ignore[operator,assignment]
    return model


def _selects_logits(model: nn.Module) -> bool:
    return "logits_to_keep" in inspect.signature(_unwrap(model).forward).parameters
