"""Texts of an LM laid end to end: no padding is computed, and a beginning that all share is computed once.

An LM of transformers runs so once its attention is `IMPLEMENTATION`: which tokens see which is then said by the
`AttentionLayout` given to `run`. `lmrc.rc.model.kv_cache` has the layouts of inference.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from lmrc.common.errors import ConfigError, UserError

IMPLEMENTATION = "packed_texts"


class AttentionLayout(Protocol):
    """Which tokens of a pass see which."""

    layers: set[int]
    """The layers that have asked."""

    @property
    def longest(self) -> int:
        """Tokens of the longest text, those read before included."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """query [1, heads, tokens, size], key and value [1, key heads, tokens, size] → [1, tokens, heads, size]."""


_BLOCK = 256
"""Queries that are masked together: keys behind the last of them are left out, not masked."""

Block = tuple[int, int, Tensor]
"""First query, end of the queries, and which keys [queries, keys] they see of those that any of them does."""


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None, blocks: Sequence[Block] = ()) -> Tensor:
    """Softmax attention of the last tokens of a text to all of it (flash attention where the device has it).

    query [1, heads, new, size], key and value [1, key heads, tokens, size]. Without `blocks` each token sees itself and
    what is before it, and new = tokens or 1. Returns like query.
    """
    grouped = query.shape[1] != key.shape[1]
    if not blocks:
        causal = query.shape[2] > 1
        return F.scaled_dot_product_attention(query, key, value, is_causal=causal, scale=scale, enable_gqa=grouped)
    outputs = []
    for start, end, mask in blocks:
        seen = mask.shape[1]
        parts = query[:, :, start:end], key[:, :, :seen], value[:, :, :seen]
        outputs.append(F.scaled_dot_product_attention(*parts, attn_mask=mask, scale=scale, enable_gqa=grouped))
    return torch.cat(outputs, 2)


def causal_blocks(new: int, tokens: int, device: torch.device) -> list[Block]:
    """How the last `new` tokens of a text see it; empty where `attention` needs no blocks."""
    if new in (1, tokens):
        return []
    blocks: list[Block] = []
    for start in range(0, new, _BLOCK):
        end = min(start + _BLOCK, new)
        before = tokens - new + start
        blocks.append(
            (start, end, torch.ones(end - start, before + end - start, dtype=torch.bool, device=device).tril(before))
        )
    return blocks


@dataclass
class PackedSequences:
    """Texts that see themselves and, where there is one, a common beginning; a `AttentionLayout` for training.

    The tokens of a pass are those of the beginning, then those of each text behind it.
    """

    beginning: int
    """Tokens of the common beginning, or 0."""
    lengths: Sequence[int]
    """Tokens of each text behind it."""
    flash: bool = False
    """By flash-attn, which must be there: in 16 bits, on a GPU."""
    layers: set[int] = field(default_factory=set)
    _blocks: dict[torch.device, list[list[Block]]] = field(default_factory=dict, init=False)
    """By device, as layers of one LM may lie on several."""

    @property
    def longest(self) -> int:
        """See `AttentionLayout`."""
        return self.beginning + max(self.lengths)

    def positions(self) -> Tensor:
        """int64 [tokens]: the place of each token in its text."""
        parts = [torch.arange(self.beginning)]
        parts += [torch.arange(self.beginning, self.beginning + length) for length in self.lengths]
        return torch.cat(parts)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """See `AttentionLayout`."""
        self.layers.add(layer)
        if self.flash:
            return self._flash(query, key, value, scale)
        sizes = [self.beginning, *self.lengths]
        outputs = []
        (first_key, *keys), (first_value, *values) = torch.split(key, sizes, 2), torch.split(value, sizes, 2)
        first_query, *queries = torch.split(query, sizes, 2)
        if self.beginning:
            outputs.append(attention(first_query, first_key, first_value, scale))
        device = query.device
        if device not in self._blocks:
            self._blocks[device] = [causal_blocks(length, self.beginning + length, device) for length in self.lengths]
        for q, k, v, blocks in zip(queries, keys, values, self._blocks[device], strict=True):
            seen = (torch.cat([first_key, k], 2), torch.cat([first_value, v], 2)) if self.beginning else (k, v)
            outputs.append(attention(q, *seen, scale, blocks))
        return torch.cat(outputs, 2).transpose(1, 2)

    @cached_property
    def _ends(self) -> tuple[list[int], list[int], list[int]]:
        """Where texts end among queries and among keys, and the place of each key in the pass."""
        start, queries, keys, places = self.beginning, [0], [0], list[int]()
        texts = [(0, self.beginning)] if self.beginning else []
        for length in self.lengths:
            texts.append((start, length))
            start += length
        for begin, length in texts:
            shared = range(self.beginning) if begin else range(0)
            places += [*shared, *range(begin, begin + length)]
            queries.append(queries[-1] + length)
            keys.append(len(places))
        return queries, keys, places

    def _flash(self, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        """The same in one call of flash-attn, which aligns queries with the last keys as we do."""
        from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]

        queries, keys, places = self._ends
        place = torch.tensor(places, device=query.device)
        longest = [max(end - start for start, end in pairwise(ends)) for ends in (queries, keys)]
        output: Tensor = flash_attn_varlen_func(
            query[0].transpose(0, 1),
            key[0].transpose(0, 1).index_select(0, place),
            value[0].transpose(0, 1).index_select(0, place),
            torch.tensor(queries, dtype=torch.int32, device=query.device),
            torch.tensor(keys, dtype=torch.int32, device=query.device),
            *longest,
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
    """What transformers calls in every layer. Without a layout there is one text."""
    if options.get("softcap") is not None or options.get("s_aux") is not None or options.get("dropout"):
        # Not in the pre-flight: it shows in a forward pass.
        raise ConfigError(f"the attention of {type(module).__name__} has a softcap, a sink or dropout: {_REMEDY}")
    window = options.get("sliding_window")
    if window is not None and (key.shape[2] if layout is None else layout.longest) > window:
        # Not in the pre-flight: it shows in a forward pass.
        raise UserError(f"{type(module).__name__} sees {window} tokens only: lower prompt.max_length to that")
    if layout is None:
        if len(query) > 1:  # of which some may be padded, and nothing here would know
            raise ValueError(
                f"{len(query)} rows of texts: lay them end to end and give a layout (lmrc.rc.model.packed_attention.run)"
            )
        return attention(query, key, value, scaling).transpose(1, 2), None
    return layout.attend(int(module.layer_idx), query, key, value, scaling), None  # type: ignore[arg-type]


_REMEDY = "choose a Llama-like causal LM in model.base"
AttentionInterface.register(IMPLEMENTATION, _attend)


def run(model: nn.Module, input_ids: Tensor, positions: Tensor, layout: AttentionLayout, wanted: Tensor) -> Tensor:
    """One pass over the tokens of a layout. `model` may be wrapped.

    input_ids, positions, wanted: int64 [tokens], [tokens], [wanted]. Returns the logits [wanted, vocabulary] behind the
    tokens at the places `wanted`; only there are they computed, where the LM can.

    Raises ConfigError where the LM's attention does not go through transformers' attention interface, UserError where a
    text is longer than it knows positions.
    """
    check_positions(model, layout.longest)
    # Of an LM on several GPUs the last layer lies elsewhere than the tokens: places as numbers are of no device.
    places = wanted.tolist() if is_spread(model) else wanted
    keep = {"logits_to_keep": places} if _selects_logits(model) else {}
    output = model(input_ids=input_ids[None], position_ids=positions[None], layout=layout, use_cache=False, **keep)
    if len(layout.layers) < _unwrapped(model).config.num_hidden_layers:
        # Not in the pre-flight: it shows in a forward pass.
        raise ConfigError(f"{type(_unwrapped(model)).__name__} cannot read packed texts: {_REMEDY}")
    logits: Tensor = output.logits[0]
    return logits if keep else logits.index_select(0, wanted)


def _unwrapped(model: nn.Module) -> PreTrainedModel:
    """The LM inside an adapter and an engine."""
    while not isinstance(model, PreTrainedModel):
        model = model.module if isinstance(getattr(model, "module", None), nn.Module) else model.get_base_model()  # type: ignore[operator,assignment]
    return model


def check_positions(model: nn.Module, longest: int) -> None:
    """Raises UserError where the LM knows fewer positions than a text has tokens: it would read on, badly."""
    config = _unwrapped(model).config
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and longest > positions:
        # Not in the pre-flight: every document would have to be tokenized; the pre-flight compares prompt.max_length.
        raise UserError(
            f"a text has {longest} tokens, but the LM ({config.model_type}) knows {positions} positions: lower "
            "prompt.max_length to that, or choose another model.base"
        )


def is_spread(model: nn.Module) -> bool:
    """Whether the layers lie on several devices, so that their inputs are moved on the way."""
    return len(set(getattr(_unwrapped(model), "hf_device_map", {}).values())) > 1


def _selects_logits(model: nn.Module) -> bool:
    return "logits_to_keep" in inspect.signature(_unwrapped(model).forward).parameters
