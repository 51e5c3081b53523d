"""Batches of examples, without padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lmrc.rc.model.packed_attention import PackedSequences
from lmrc.rc.prompts.query_builder import Example, shared_length


def collate(examples: Sequence[Example], flash: bool = False) -> dict[str, Tensor | PackedSequences]:
    """Examples end to end, with the beginning that their prompts share only once, for `lmrc.rc.model.packed_attention.run`.

    `input_ids` and `positions` int64 [tokens]; `wanted` and `targets` int64 [learnt tokens]: the places of the tokens
    that predict an answer, and what they should predict; `layout`.
    """
    beginning = _common_beginning(examples)
    # Int64 as a whole: embeddings and losses want it.
    texts = [example.input_ids[beginning:].long() for example in examples]
    layout = PackedSequences(beginning, [len(text) for text in texts], flash)
    wanted, targets, start = [], [], beginning
    for example, text in zip(examples, texts, strict=True):
        prompt = example.prompt_tokens - beginning
        wanted.append(torch.arange(start + prompt - 1, start + len(text) - 1))
        targets.append(text[prompt:])
        start += len(text)
    return {
        "input_ids": torch.cat([examples[0].input_ids[:beginning].long(), *texts]),
        "positions": layout.positions(),
        "wanted": torch.cat(wanted),
        "targets": torch.cat(targets),
        "layout": layout,
    }


def _common_beginning(examples: Sequence[Example]) -> int:
    """Tokens at which all prompts begin; 0 for one prompt. The last token of a prompt predicts: it is not shared."""
    if len(examples) == 1:
        return 0
    most = min(example.prompt_tokens for example in examples) - 1
    return shared_length([example.input_ids[:most].tolist() for example in examples])
