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
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from lmrc.common.errors import ConfigError, UserError
from lmrc.kernels.masked_attention import Block, attention, causal_blocks

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
        flash: whether to use flash-attn, which needs 16-bit tensors on a GPU.
    """

    prefix_length: int
    lengths: Sequence[int]
    flash: bool = False
    layers: set[int] = field(default_factory=set)
    # Per device, because the layers of one LM may be on several.
    _blocks: dict[torch.device, list[list[Block]]] = field(default_factory=dict, init=False)

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
        if self.flash:
            return self._flash(query, key, value, scale)
        sizes = [self.prefix_length, *self.lengths]
        outputs = []
        (prefix_key, *keys), (prefix_value, *values) = torch.split(key, sizes, 2), torch.split(value, sizes, 2)
        prefix_query, *queries = torch.split(query, sizes, 2)
        if self.prefix_length:
            outputs.append(attention(prefix_query, prefix_key, prefix_value, scale))
        device = query.device
        if device not in self._blocks:
            self._blocks[device] = [causal_blocks(n, self.prefix_length + n, device) for n in self.lengths]
        for q, k, v, blocks in zip(queries, keys, values, self._blocks[device], strict=True):
            if self.prefix_length:
                k, v = torch.cat([prefix_key, k], 2), torch.cat([prefix_value, v], 2)
            outputs.append(attention(q, k, v, scale, blocks))
        return torch.cat(outputs, 2).transpose(1, 2)

    @cached_property
    def _flash_offsets(self) -> tuple[list[int], list[int], list[int]]:
        """Cumulative lengths of queries and of keys, and the index in the pass of each key."""
        start, query_ends, key_ends, key_indices = self.prefix_length, [0], [0], list[int]()
        sequences = [(0, self.prefix_length)] if self.prefix_length else []
        for length in self.lengths:
            sequences.append((start, length))
            start += length
        for begin, length in sequences:
            prefix = range(self.prefix_length) if begin else range(0)
            key_indices += [*prefix, *range(begin, begin + length)]
            query_ends.append(query_ends[-1] + length)
            key_ends.append(len(key_indices))
        return query_ends, key_ends, key_indices

    def _flash(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """Compute `attend` in one call of flash-attn, which also aligns queries with the last keys of a sequence."""
        from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]

        query_ends, key_ends, key_indices = self._flash_offsets
        index = torch.tensor(key_indices, device=query.device)
        max_lengths = [max(end - start for start, end in pairwise(ends)) for ends in (query_ends, key_ends)]
        output: Tensor = flash_attn_varlen_func(
            query[0].transpose(0, 1),
            key[0].transpose(0, 1).index_select(0, index),
            value[0].transpose(0, 1).index_select(0, index),
            torch.tensor(query_ends, dtype=torch.int32, device=query.device),
            torch.tensor(key_ends, dtype=torch.int32, device=query.device),
            *max_lengths,
            softmax_scale=scale,
            causal=True,
        )
        return output[None]


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
